"""What is wrong with settings, in the user's words: file or override, key, nearest valid name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import Tag, ValidationError
from pydantic_core import ErrorDetails

from distilcli.config.fields import NAME_RULE, Section
from distilcli.config.overrides import MAX_SHOWN, Key, Override, dotted_key, is_in, named
from distilcli.errors import either, shortened
from distilcli.files.json_text import to_json


@dataclass(frozen=True)
class _Problem:
    kind: str  # pydantic's error type
    key: Key
    text: str
    suggestion: Key | None = None


def describe(
    error: ValidationError,
    kind: type[Section],
    path: Path,
    tree: dict[str, Any],
    overrides: list[Override],
    place: Callable[[Key], Key] = lambda key: key,
) -> str:
    """The first problem with where it is, and how many more there are.

    Args:
        error: what pydantic found.
        kind: what the settings should be.
        path: of the file that they are from.
        tree: of the file.
        overrides: that were laid over it.
        place: where a key of `kind` stands in the file.
    """
    problems = [_problem(details, kind, tree, place) for details in error.errors()]
    problems.sort(key=lambda problem: problem.kind not in ("extra_forbidden", "renamed"))
    # A key that is only mistyped is not missing as well.
    meant = {problem.suggestion for problem in problems}
    first, *others = (p for p in problems if p.kind != "missing" or p.key not in meant)
    where = _origin(first.key, path, tree, overrides)
    dotted = f"{dotted_key(first.key)}: " if first.key else ""
    if first.kind == "renamed":
        # A file of an earlier version has several of them: all are said at once.
        also = [p for p in others if p.kind == "renamed"]
        also = [p for p in also if _origin(p.key, path, tree, overrides) == where]
        others = [p for p in others if p not in also]
        first = replace(first, text=", ".join(p.text for p in (first, *also)))
        dotted = ""
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {dotted}{first.text}{more}"


def _origin(key: Key, path: Path, tree: dict[str, Any], overrides: list[Override]) -> str:
    """Who put a wrong `key` there: an override, the file, or the two together."""
    overridden = ""
    for override in reversed(overrides):
        length = len(override.key)
        if key[:length] == override.key:
            return named(override.text)
        if override.key[: len(key)] == key:
            if not is_in(tree, key):
                return named(override.text)
            overridden = " (with overrides)"
    return f"{path}{overridden}"


def _problem(
    details: ErrorDetails, root: type[Section], tree: dict[str, Any], place: Callable[[Key], Key]
) -> _Problem:
    key, section, choices = _find(details["loc"], root)
    key = place(key)
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        kind_is_given = is_in(tree, (*key[:-1], "kind"))
        return _unknown_key(key, section, choices, kind_is_given)
    if kind == "missing":
        return _Problem(kind, key, "this key is required")
    if kind == "union_tag_invalid":
        key, given = (*key, "kind"), given.get("kind")
        text = f"must be {either(list(choices))}"
    elif kind in _WORDS:
        text = _WORDS[kind](details.get("ctx", {}))
    else:
        text = details["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, (dict, list, Section)) else f" (given: {_shown(given)})"
    return _Problem(kind, key, text + shown)


def _unknown_key(
    key: Key, section: type[Section], choices: dict[str, type[Section]], kind_is_given: bool
) -> _Problem:
    name, own = str(key[-1]), list(section.model_fields)
    if name in section.renamed:
        now = (*key[:-1], *section.renamed[name].split("."))
        return _Problem("renamed", key, f"{dotted_key(key)} is now {dotted_key(now)}", now)
    with_key = [tag for tag, other in choices.items() if name in other.model_fields]
    text, suggestion = f"unknown key; there are {', '.join(own)}", None
    if with_key:
        without = next(tag for tag, other in choices.items() if other is section)
        text = f"can only be used with {either(with_key)}, not with {without}"
        if "kind" in section.model_fields:
            kind = dotted_key((*key[:-1], "kind"))
            text = f"needs {kind}={either(with_key)}; this section is {without}"
            text += "" if kind_is_given else ", the default"
        if name in section.called:
            suggestion = (*key[:-1], section.called[name])
            text += f", where it is called {dotted_key(suggestion)}"
    else:
        others = [field for other in choices.values() for field in other.model_fields]
        near = _nearest(name, own) or _nearest(name, others)
        if near:
            suggestion = (*key[:-1], near)
            text = f"unknown key; did you mean {dotted_key(suggestion)}?"
    return _Problem("extra_forbidden", key, text, suggestion)


def _nearest(name: str, names: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


def _find(
    location: tuple[int | str, ...], root: type[Section]
) -> tuple[Key, type[Section], dict[str, type[Section]]]:
    """The user's key for a location of pydantic, which also holds tags and names of types.

    Returns:
        The key, the section it is in, and the alternatives to that section, or to what is at the
        key, by their tags; none where the section is no member of a union.
    """
    key: Key = ()
    section: type[Section] = root
    choices: dict[str, type[Section]] = {}
    below_value = is_name = False
    for part in location:
        if part == "[key]":  # it is the name itself that is wrong
            break
        if is_name:
            key, is_name = (*key, part), False
        elif isinstance(part, str) and below_value and part in choices:
            section, below_value = choices[part], False
        elif isinstance(part, int):
            key = (*key, part)
        elif not below_value:
            key = (*key, part)
            if part not in section.model_fields:
                break
            annotation = section.model_fields[str(part)].annotation
            choices = _sections(annotation)
            # The next part is what the user calls it, or its place in a list of one kind.
            is_name = get_origin(annotation) is dict
            is_name |= get_origin(annotation) is list and "" in choices
            below_value = "" not in choices
            section = choices.pop("", section)
    return key, section, choices


def _sections(annotation: Any) -> dict[str, type[Section]]:
    """The sections that a value may be, by union tag; outside a union the tag is empty."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return {"": annotation}
    arguments = get_args(annotation)
    tag = next((str(entry.tag) for entry in arguments if isinstance(entry, Tag)), None)
    found: dict[str, type[Section]] = {}
    for argument in arguments:
        for inner, section in _sections(argument).items():
            found[inner if tag is None else tag] = section
    return found


# Messages by pydantic's error type, from its context.
_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "dict_type": lambda _: "must be keys with something below each",
    "model_type": lambda _: "this is a section: it takes keys below it, not a value",
    "invalid_key": lambda _: "not a key; keys are words",
    "string_type": lambda _: "must be text; put it in quotes",
    "string_unicode": lambda _: "must be text that UTF-8 has; this is half of a surrogate pair",
    "string_too_long": lambda context: f"must be of {context['max_length']} characters at most",
    "int_type": lambda _: "must be a whole number",
    "bool_type": lambda _: "must be true or false",
    "float_type": lambda _: "must be a number",
    "float_parsing": lambda _: "must be a number",
    "finite_number": lambda _: "must be a finite number",
    "list_type": lambda _: "must be a list, such as [a, b]",
    "tuple_type": lambda _: "must be a list, such as [a, b]",
    "too_long": lambda context: f"takes {context['max_length']} at most",
    "too_short": lambda context: f"needs {context['min_length']} or more",
    "literal_error": lambda context: f"must be {context['expected']}".replace("'", ""),
    "greater_than": lambda context: f"must be above {_bound(context['gt'])}",
    "greater_than_equal": lambda context: f"must be at least {_bound(context['ge'])}",
    "less_than": lambda context: f"must be below {_bound(context['lt'])}",
    "less_than_equal": lambda context: f"must be at most {_bound(context['le'])}",
    "string_pattern_mismatch": lambda _: NAME_RULE,
}


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    said = to_json(value) if value is None or isinstance(value, bool) else repr(value)
    return shortened(said, MAX_SHOWN)


def _bound(limit: float) -> str:
    return f"{limit:g}" if isinstance(limit, float) else f"{limit:,}"
