"""The settings as a JSON schema (draft 2020-12), with which editors complete and check the YAML.

    # yaml-language-server: $schema=./schema.json

It is what pydantic makes of the sections, in words that editors understand better. Which part of a
union a section is depends on one of its keys, so that the mistake is named and not every part that
does not fit. Numbers may be text, since PyYAML takes `3e-4` for that. What a suite or a stage
lays over sections of an experiment is completed like these sections.

What holds only of several keys together (`min_length` may not be over `max_length`) is not in it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from distilcli.config.ablation import Ablation
from distilcli.config.data import DataConfig
from distilcli.config.embedding import EMBEDDING, EmbeddingExperiment
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.fields import Section
from distilcli.config.stages import StageOverlay, StagesFile
from distilcli.config.suite import Suite, SuiteTask

KINDS: dict[str, type[Section]] = {
    "masked-lm": MaskedLMExperiment,
    "task": TaskExperiment,
    "embedding": EmbeddingExperiment,
    "suite": Suite,
    "ablation": Ablation,
    "stages": StagesFile,
}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NUMBER_TEXT = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
# Pydantic leaves bounds of a number in its own words where a function of ours stands before it.
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TAGS, _OTHERWISE = "x-tags", "x-otherwise"  # only between generating and rewriting
_ANYTHING = {"type": "object", "additionalProperties": True}
_PART_OF_DATA = "PartOfDataConfig"


def settings_schema(kind: str | None = None) -> dict[str, Any]:
    """The schema of one of `KINDS`; None: of any of them, told apart by their keys.

    Raises:
        KeyError: there is no such kind.
    """
    wanted = list(KINDS.values()) if kind is None else [KINDS[kind]]
    # In the same order every time, so that the text is the same.
    made_of: set[type[Section]] = {*wanted, MaskedLMExperiment, TaskExperiment}
    refs, made = models_json_schema(
        [(one, "validation") for one in sorted(made_of, key=lambda section: section.__name__)],
        schema_generator=_Generator,
    )
    sections: dict[str, Any] = made["$defs"]
    _open_overlays(sections)
    sections = {name: _rewritten(section, sections) for name, section in sections.items()}
    own = {section: refs[section, "validation"] for section in wanted}
    title = "distilcli: an experiment or a suite" if kind is None else f"distilcli: {kind}"
    root = _any_file(own, sections) if kind is None else own[KINDS[kind]]
    used = _reached(root, sections)
    return {"$schema": _DIALECT, "title": title} | root | {"$defs": used}


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, which also notes how the parts of a union are told apart."""

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """The union with its tags in order, and the tag of a section that says nothing."""
        made = super().tagged_union_schema(schema)
        discriminator = schema["discriminator"]
        assert callable(discriminator), "a union here is told apart by a function"
        tags = [str(tag) for tag in schema["choices"]]
        return made | {_TAGS: tags, _OTHERWISE: discriminator({})}


def _any_file(own: Mapping[type[Section], Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """A file of any kind, which one key decides: `tasks` makes it a suite, `base` an ablation."""
    # Listed here too, or an editor would not offer them in a file that has none of them yet. The
    # last one that a file has decides: one with stages may have a task, too.
    offered: dict[str, type[Section]] = {"task": TaskExperiment, "tasks": Suite, "base": Ablation}
    offered |= {"stages": StagesFile}
    return {
        "type": "object",
        "properties": {
            key: _described(sections[section.__name__]["properties"][key])
            for key, section in offered.items()
        },
    } | _by_key(offered, own)


def _by_key(offered: dict[str, type[Section]], own: Mapping[type[Section], Any]) -> dict[str, Any]:
    """The section whose key a file has; with none of them it is masked-LM training."""
    otherwise: dict[str, Any] = own[MaskedLMExperiment]
    for key, section in offered.items():
        then = own[section]
        if section is TaskExperiment:
            then = _by_kind_of_task(then, own[EmbeddingExperiment])
        otherwise = {"if": {"required": [key]}, "then": then, "else": otherwise}
    return otherwise


def _by_kind_of_task(on_task: Any, on_embeddings: Any) -> dict[str, Any]:
    """What a tree with `task` is: on embeddings, whose losses are others, or on another task."""
    kind = {"type": "object", "required": ["kind"], "properties": {"kind": {"const": EMBEDDING}}}
    condition = {"properties": {"task": kind}}
    return {"if": condition, "then": on_embeddings, "else": on_task}


def _described(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("title", "description") if key in schema}


def _open_overlays(sections: dict[str, Any]) -> None:
    """Show what a suite lays over a section of its experiments as that section."""
    experiment = sections[TaskExperiment.__name__]["properties"]
    for suite in (Suite, SuiteTask):
        own = sections.get(suite.__name__, {}).get("properties", {})
        for name in own.keys() & experiment.keys():
            own[name] = _replaced(own[name], experiment[name])
    _open_stages(sections)


def _open_stages(sections: dict[str, Any]) -> None:
    """Show the sections of a stage as those of the experiments that it may be."""
    if StagesFile.__name__ not in sections:
        return
    kinds = [sections[kind.__name__]["properties"] for kind in (MaskedLMExperiment, TaskExperiment)]
    for overlay in (StagesFile, StageOverlay):
        own = sections[overlay.__name__]["properties"]
        for name, schema in own.items():
            found = [kind[name] for kind in kinds if name in kind]
            if not found or not _is_overlay(schema):
                continue
            parts = [_undescribed(one) for one in found]
            own[name] = _described(schema) | ({"anyOf": parts} if len(parts) > 1 else parts[0])
    # Of this section a stage gives only what differs, so no key of it must be there.
    section = sections[DataConfig.__name__]
    sections[_PART_OF_DATA] = {key: section[key] for key in section if key != "required"}
    for overlay in (StagesFile, StageOverlay):
        data = sections[overlay.__name__]["properties"]["data"]
        data["$ref"] = data["$ref"].replace(DataConfig.__name__, _PART_OF_DATA)


def _is_overlay(schema: Mapping[str, Any]) -> bool:
    return any(_ANYTHING.items() <= part.items() for part in schema.get("anyOf", [schema]))


def _undescribed(schema: Mapping[str, Any]) -> dict[str, Any]:
    around = {"title", "description", "default"}
    return {key: value for key, value in schema.items() if key not in around}


def _replaced(schema: Any, section: Mapping[str, Any]) -> Any:
    """The schema with the reference in `section` in place of a mapping of anything."""
    if not isinstance(schema, dict):
        return schema
    if _ANYTHING.items() <= schema.items():
        rest = {key: value for key, value in schema.items() if key not in _ANYTHING}
        return rest | {"$ref": next(_references(section))}
    if "anyOf" in schema:
        return schema | {"anyOf": [_replaced(part, section) for part in schema["anyOf"]]}
    return schema


def _rewritten(schema: Any, sections: Mapping[str, Any]) -> Any:
    """The schema with unions and numbers as the docstring of this module says."""
    if isinstance(schema, list):
        return [_rewritten(part, sections) for part in schema]
    if not isinstance(schema, dict):
        return schema
    done = {key: _rewritten(value, sections) for key, value in schema.items()}
    if _TAGS in done:
        parts = dict(zip(done.pop(_TAGS), done.pop("oneOf"), strict=True))
        return done | _union(parts, done.pop(_OTHERWISE), sections)
    if "patternProperties" in done:  # names that the user chooses, and no others
        return done | {"additionalProperties": False}
    if done.get("type") == "number":
        return _number(done)
    return done


def _union(
    parts: Mapping[str, Any], otherwise: str | None, sections: Mapping[str, Any]
) -> dict[str, Any]:
    """A union of which `kind`, or a key that only one part has, says which part is meant."""
    if not all("$ref" in part for part in parts.values()):
        return {"anyOf": list(parts.values())}
    keys = {tag: sections[_name(part["$ref"])] for tag, part in parts.items()}
    if not all("kind" in section["properties"] for section in keys.values()):
        first, second, *third = parts
        assert otherwise == first, parts
        assert second in keys[second]["required"], parts
        then = parts[second]
        if third:
            assert third == [EMBEDDING], parts
            then = _by_kind_of_task(parts[second], parts[EMBEDDING])
        return {"if": {"required": [second]}, "then": then, "else": parts[first]}
    kind: dict[str, Any] = {"enum": list(parts)}
    conditions = []
    for tag, part in parts.items():
        # Only of mappings, or what is none would be said to be none of each part.
        condition: dict[str, Any] = {"type": "object", "properties": {"kind": {"const": tag}}}
        if tag != otherwise:
            condition["required"] = ["kind"]
        conditions.append({"if": condition, "then": part})
    chosen: dict[str, Any] = {"type": "object", "properties": {"kind": kind}}
    if otherwise in parts:
        kind["default"] = otherwise
    else:
        chosen["required"] = ["kind"]
    return chosen | {"allOf": conditions}


def _number(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A number, or the text that PyYAML takes it for."""
    around = {"title", "description", "default"}
    number = {_BOUNDS.get(key, key): schema[key] for key in schema if key not in around}
    text = {"type": "string", "pattern": _NUMBER_TEXT}
    return {key: schema[key] for key in schema if key in around} | {"anyOf": [number, text]}


def _reached(root: Any, sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that the root refers to, and those that these refer to, by name."""
    found: dict[str, Any] = {}
    waiting = [_name(reference) for reference in _references(root)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = sections[name]
            waiting += [_name(reference) for reference in _references(sections[name])]
    return dict(sorted(found.items()))


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]
