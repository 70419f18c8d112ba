"""Writes what is made of the settings: configs/schema.json for editors, docs/settings.md to read.

    python scripts/development/write_settings.py

A test fails where either is not what this would write.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distilcli.config.schema import KINDS, settings_schema
from distilcli.files.json_text import to_json

ROOT = Path(__file__).resolve().parents[2]
SCHEMA_FILE = ROOT / "configs" / "schema.json"
PAGE_FILE = ROOT / "docs" / "settings.md"
START = """# Settings

An experiment is one YAML file, and so is a suite or an ablation. Every key that they may have is
listed here, with what it may be, its default and its meaning. Overrides on the command line name
the same keys, with dots between their parts: `optim.lr=1e-4`, `data.sources.0.files=my.txt`. A key
that is not listed is an error, and so is a value of another type or outside of its bounds. (Where
no upper bound is shown, there is one far above what anyone needs.)

A file with the key `task` is an [experiment on a task](#experiments-on-a-task), or on
[embeddings](#embeddings) where the kind of task is `embedding`. One with `tasks` is a
[suite](#suites), one with `base` is an [ablation](#ablations), and any other is [masked-LM
training](#masked-lm-training). One with `stages` is [several of them](#several-stages), one after
the other.

Editors complete these keys and mark mistakes with the schema that `distilcli schema` prints. In
VS Code, for example, the YAML extension by Red Hat takes the name of the schema from a comment:

```text
# yaml-language-server: $schema=./schema.json
```

The files in `configs/` have such a line.
"""
NO_LIMIT = 10**5  # no one needs as many; the limit is there for what would never end
HEADINGS = {
    "masked-lm": "Masked-LM training",
    "task": "Experiments on a task",
    "embedding": "Embeddings",
    "suite": "Suites",
    "ablation": "Ablations",
    "stages": "Several stages",
}


def schema_text() -> str:
    """What configs/schema.json should be."""
    return to_json(settings_schema(), indent=1) + "\n"


def page_text() -> str:
    """What docs/settings.md should be."""
    sections = settings_schema()["$defs"]
    page = Page(sections)
    for kind, heading in HEADINGS.items():
        page.add_kind(heading, KINDS[kind].__name__)
    return START + page.text()


class Page:
    """The tables, one for each section; a section that was described before is linked to.

    Args:
        sections: the schema of each, by its name.
    """

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self.sections = sections
        self.chosen_by_kind = set(_sections_chosen_by_kind(sections))
        self.parts: list[str] = []
        self.headings: dict[str, str] = {}

    def text(self) -> str:
        """The page so far, with links where a table names a section."""

        def link(match: re.Match[str]) -> str:
            title = self.headings[match[1]]
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            return f"[{match[2]}](#{anchor})"

        return re.sub(r"<(\w+):([^>]+)>", link, "".join(self.parts))

    def add_kind(self, heading: str, name: str) -> None:
        """A chapter: the table of a whole file, then those of its sections."""
        self.parts.append(f"\n## {heading}\n\n{_sentence(self.sections[name])}\n\n")
        waiting = self._add_table(name, "")
        while waiting:
            key, tag, section = waiting.pop(0)
            if section in self.headings:
                continue
            title = f"`{key}`" + (f", {tag}" if tag else "")
            if title in self.headings.values():  # links could not tell two of them apart
                title += f" ({heading.lower()})"
            self.headings[section] = title
            self.parts.append(f"\n### {title}\n\n{_sentence(self.sections[section])}\n\n")
            waiting = self._add_table(section, key) + waiting

    def _add_table(self, name: str, above: str) -> list[tuple[str, str, str]]:
        """Append the table of one section; the sections below it: key, tag and name of each."""
        below: list[tuple[str, str, str]] = []
        self.parts.append("| key | may be | default | meaning |\n|---|---|---|---|\n")
        for full, key, schema, section in self._rows(self.sections[name], above):
            found = list(_sections_of(schema, full))
            below += found
            default = _default(key, schema, section)
            if key == "kind" and name in self.chosen_by_kind:
                default = "required"
            kinds = list(dict.fromkeys(_kinds_of(schema)))
            cells = [f"`{full}`", _either(kinds), default]
            cells.append(self._meaning(key, schema, found))
            cells = [cell.replace("|", "\\|") for cell in cells]
            self.parts.append(f"| {' | '.join(cells)} |\n")
        return below

    def _rows(
        self, section: Mapping[str, Any], above: str
    ) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
        """Dotted key, key, schema and section of each row; sections of one key need no table."""
        for key, schema in section["properties"].items():
            full = f"{above}.{key}" if above else key
            inner = self.sections[_name(schema["$ref"])] if "$ref" in schema else section
            if inner is not section and len(inner["properties"]) == 1:
                for below, last, only, _ in self._rows(inner, full):
                    words = f"{_sentence(inner)} {only.get('description', '')}".strip()
                    yield below, last, {**only, "description": words}, inner
            else:
                yield full, key, schema, section

    def _meaning(
        self, key: str, schema: Mapping[str, Any], found: list[tuple[str, str, str]]
    ) -> str:
        if "description" in schema:
            return str(schema["description"])
        if found:
            return _sentence(self.sections[found[0][2]])
        return "Chooses this section." if key == "kind" else ""


def _sentence(section: Mapping[str, Any]) -> str:
    """The docstring of a section as one paragraph."""
    return " ".join(str(section.get("description", "")).split())


def _sections_of(schema: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """The sections below a key: the key that stands before theirs, the tag in a union, the name."""
    if "$ref" in schema:
        yield key, "", _name(schema["$ref"])
    for part in schema.get("anyOf", []):
        yield from _sections_of(part, key)
    for part in schema.get("allOf", []):
        tag = part["if"]["properties"]["kind"]["const"]
        yield key, f"kind `{tag}`", _name(part["then"]["$ref"])
    if "if" in schema:
        [wanted] = schema["if"]["required"]
        yield key, f"without `{wanted}`", _name(schema["else"]["$ref"])
        then = schema["then"]
        if "if" in then:  # a task, told apart by its kind
            kind = then["if"]["properties"][wanted]["properties"]["kind"]["const"]
            yield key, f"with `{wanted}` of kind `{kind}`", _name(then["then"]["$ref"])
            then = then["else"]
        yield key, f"with `{wanted}`", _name(then["$ref"])
    if isinstance(schema.get("items"), dict):
        yield from _sections_of(schema["items"], f"{key}.0")
    for part in schema.get("patternProperties", {}).values():
        yield from _sections_of(part, f"{key}.NAME")


def _sections_chosen_by_kind(schema: Any) -> Iterator[str]:
    """Names of the sections that a union takes only where `kind` asks for them."""
    if isinstance(schema, Mapping):
        for part in schema.get("allOf", []):
            if "required" in part["if"]:
                yield _name(part["then"]["$ref"])
        for value in schema.values():
            yield from _sections_chosen_by_kind(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _sections_chosen_by_kind(value)


def _kinds_of(schema: Mapping[str, Any]) -> Iterator[str]:
    if "const" in schema:
        yield f"`{schema['const']}`"
    elif "enum" in schema:
        yield from (f"`{value}`" for value in schema["enum"])
    elif "anyOf" in schema:
        for part in schema["anyOf"]:
            if "pattern" not in part or part.get("maxLength"):  # numbers that YAML takes for text
                yield from _kinds_of(part)
    elif "patternProperties" in schema:
        for part in schema["patternProperties"].values():
            yield f"names, below each {_either(list(_kinds_of(part)))}"
    elif found := list(_sections_of(schema, "")):
        for _, tag, name in found:
            yield f"<{name}:{tag.removeprefix('kind ') or 'section'}>"
    else:
        yield _plain_kind(schema)


def _plain_kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if kind in ("integer", "number"):
        word = "whole number" if kind == "integer" else "number"
        return word + _bounds(schema, whole=kind == "integer")
    if kind == "array":
        if "prefixItems" in schema:
            inner = _either(list(_kinds_of(schema["prefixItems"][0])))
            return f"list of {len(schema['prefixItems'])}, each {inner}"
        return f"list, each {_either(list(_kinds_of(schema['items'])))}"
    words = {"string": "text", "boolean": "`true` or `false`", "null": "`null`"}
    return words.get(str(kind), "keys and values")


def _bounds(schema: Mapping[str, Any], whole: bool) -> str:
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if whole:
        lowest = above + 1 if above is not None else lowest
        highest = below - 1 if below is not None else highest
        above = below = None
    if highest is not None and highest > NO_LIMIT:
        highest = None
    words = []
    if lowest is not None:
        words.append(f"from {_figure(lowest)}")
    if above is not None:
        words.append(f"above {_figure(above)}")
    if highest is not None:
        words.append(f"{'' if words else 'up '}to {_figure(highest)}")
    if below is not None:
        words.append(f"{'and ' if words else ''}below {_figure(below)}")
    return f" {' '.join(words)}" if words else ""


def _figure(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"


def _default(key: str, schema: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    if key in section.get("required", []):
        return "required"
    if "default" in schema:
        value = schema["default"]
        return f"`{value}`" if isinstance(value, str) else f"`{to_json(value)}`"
    return "`[]`" if schema.get("type") == "array" else ""


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def main() -> None:
    """Write both files."""
    PAGE_FILE.parent.mkdir(exist_ok=True)
    for path, text in ((SCHEMA_FILE, schema_text()), (PAGE_FILE, page_text())):
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
