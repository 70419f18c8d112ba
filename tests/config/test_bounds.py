"""Every number that a user may give has an upper bound, and is finite."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import annotated_types
import pytest
import typer
from pydantic import Tag, ValidationError
from pydantic.fields import FieldInfo

from distilcli.cli.app import app
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.fields import Section
from distilcli.config.losses import LossConfig, SoftTargetsConfig
from distilcli.config.models import CopiedStudent
from distilcli.config.suite import Suite
from distilcli.config.training import OptimConfig, TrainConfig

# Infinite on purpose: nothing is clipped then.
UNBOUNDED = {"max_grad_norm"}


def numbers(annotation: Any, metadata: list[Any]) -> Iterator[list[Any]]:
    """The metadata of each number that a field of this annotation may hold."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from numbers(inner, [*metadata, *more])
    elif annotation in (int, float):
        yield metadata
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        return  # its fields are looked at by themselves
    else:
        for argument in get_args(annotation):
            # The bounds of a list or a union are none of what is in it.
            yield from numbers(argument, metadata if get_origin(annotation) is None else [])


def sections(kind: type[Section], seen: set[type[Section]]) -> set[type[Section]]:
    """A section and all below it."""
    if kind not in seen:
        seen.add(kind)
        for field in kind.model_fields.values():
            for found in sections_in(field.annotation):
                sections(found, seen)
    return seen


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        if not isinstance(argument, Tag):
            yield from sections_in(argument)


def flat(metadata: list[Any]) -> Iterator[Any]:
    for entry in metadata:
        yield from flat(entry.metadata) if isinstance(entry, FieldInfo) else [entry]


def is_bounded(metadata: list[Any]) -> bool:
    return any(
        isinstance(entry, (annotated_types.Le, annotated_types.Lt))
        and math.isfinite(entry.le if isinstance(entry, annotated_types.Le) else entry.lt)
        for entry in flat(metadata)
    )


ALL = sorted(
    {
        section
        for root in (MaskedLMExperiment, TaskExperiment, Suite)
        for section in sections(root, set())
    },
    key=lambda section: section.__name__,
)


@pytest.mark.parametrize("section", ALL)
def test_every_number_in_the_settings_has_an_upper_bound(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        for metadata in numbers(field.annotation, list(field.metadata)):
            assert is_bounded(metadata) or name in UNBOUNDED, f"{section.__name__}.{name}"


def test_the_check_would_notice() -> None:
    class Loose(Section):
        plain: int
        lower: Annotated[float, annotated_types.Gt(0)]
        maybe: int | None
        listed: list[Annotated[int, annotated_types.Ge(0)]]
        bounded: Annotated[int, annotated_types.Le(5)] | None

    loose = {
        name
        for name, field in Loose.model_fields.items()
        for metadata in numbers(field.annotation, list(field.metadata))
        if not is_bounded(metadata)
    }
    assert loose == {"plain", "lower", "maybe", "listed"}
    assert len(ALL) > 25


def test_every_number_among_the_options_has_an_upper_bound() -> None:
    found = 0
    for command in typer.main.get_command(app).commands.values():
        for option in command.params:
            if option.type.name.startswith(("int", "float")):
                found += 1
                assert getattr(option.type, "max", None), f"{command.name} {option.opts}"
    assert found == 12


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (OptimConfig, "lr", "1e-300", "greater than or equal to"),
        (OptimConfig, "lr", 1e30, "less than or equal to 10"),
        (OptimConfig, "lr", math.nan, "finite number"),
        (OptimConfig, "lr", math.inf, "finite number"),
        (OptimConfig, "eps", 1e-300, "greater than or equal to"),
        (OptimConfig, "max_grad_norm", math.nan, "greater than or equal to"),
        (OptimConfig, "weight_decay", 1e-300, "must be 0 or at least 1e-09"),
        (LossConfig, "temperature", 1e-300, "greater than or equal to 0.01"),
        (LossConfig, "temperature", 1e30, "less than or equal to 1000"),
        (SoftTargetsConfig, "weight", 1e30, "less than or equal to 1000000"),
        (TrainConfig, "num_workers", 10**29, "less than or equal to 128"),
        (TrainConfig, "timeout_seconds", 1e30, "less than or equal to 1728000"),
        (TrainConfig, "timeout_seconds", 1e-300, "greater than or equal to 0.1"),
        (TrainConfig, "log_every", 2**64, "less than or equal to 2147483647"),
        (CopiedStudent, "layers", [0] * 1001, "at most 1000"),
        (CopiedStudent, "layers", [2**70], "less than 1000"),
        (CopiedStudent, "num_layers", 10**6, "less than or equal to 1000"),
    ],
)
def test_a_number_that_no_machine_can_take(
    section: type[Section], key: str, value: Any, message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate({key: value})


def test_a_negative_zero_is_zero() -> None:
    dropout = CopiedStudent.model_validate({"dropout": -0.0}).dropout
    assert dropout is not None
    assert math.copysign(1.0, dropout) == 1.0


def test_nothing_is_clipped_by_an_infinite_norm() -> None:
    assert OptimConfig.model_validate({"max_grad_norm": "inf"}).max_grad_norm == math.inf
