"""The documentation as a site: `sphinx-build -W docs build/docs` with `pip install '.[docs]'`.

The pages are Markdown that also reads well on a forge, so `index.md` has plain links and no
directives. Its table of contents is made from those links, in their order.
"""

import re

from sphinx.application import Sphinx

project = "distilcli"
extensions = ["myst_parser", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "distilcli"
html_copy_source = False
nitpicky = True

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]  # ```math, as forges write it
myst_heading_anchors = 3  # headings can be linked to, by the names that forges give them


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append a hidden table of contents with the pages that the index links to."""
    if docname == "index":
        pages = re.findall(r"\]\(([\w-]+)\.md\)", source[0])
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```", ""])


def setup(app: Sphinx) -> None:
    """Register what the build calls."""
    app.connect("source-read", _add_contents)
