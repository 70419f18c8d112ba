"""How a page looks: enough contrast in light and dark, and no overflow in a real browser."""

import re
import shutil
import subprocess

import pytest
from report_runs import results, write_models, write_run

from distilcli.report.html_page import html_of
from distilcli.report.pages import page_of
from distilcli.report.palette import PALETTE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OF_TEXT = ["ink", "soft", "link", "student", "teacher", *(f"series-{n}" for n in range(1, 7))]
OF_MARKS = ["grey", "start"]


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2, from 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_the_page(mode):
    """4.5 for text, 3 for marks (WCAG 2, AA); text stands on washes, too."""
    palette = {name: both[mode] for name, both in PALETTE.items()}
    for name in OF_TEXT:
        assert contrast(palette[name], palette["paper"]) >= 4.5, name
    for name in OF_MARKS:
        assert contrast(palette[name], palette["paper"]) >= 3.0, name
    for name in ("ink", "soft"):
        assert contrast(palette[name], palette["wash"]) >= 4.5, name


WIDTHS = """
<script>
onload = () => {
  const may = ".scroll, pre, .skip";
  const wide = [...document.querySelectorAll("body *")].filter(
    one => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(may));
  const more = document.documentElement.scrollWidth - innerWidth;
  document.title = `${innerWidth} ${more} ${wide.length}`;
};
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [500, 1440])  # no window is narrower than 500
def test_nothing_is_wider_than_the_screen(tmp_path, width):
    """In a browser, with a script that this test adds; only tables and code may scroll."""
    run = write_run(tmp_path, write_models(tmp_path / "models"), measured=results())
    page = tmp_path / "page.html"
    page.write_text(html_of(page_of([run], [])).replace("</body>", f"{WIDTHS}</body>"))
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--hide-scrollbars", "--dump-dom"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    finished = subprocess.run(
        [*words, page.as_uri()], capture_output=True, text=True, check=True, timeout=600
    )
    title = re.search(r"<title>([^<]*)</title>", finished.stdout)
    assert title is not None
    assert title[1] == f"{width} 0 0"
