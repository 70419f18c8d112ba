"""Settings that may change over a run: a number, or where it starts, where it ends, and how.

loss.temperature=2.0
loss.temperature='{from: 4.0, to: 1.0}'
loss.masked_lm.weight='{from: 0.0, to: 2.0, schedule: cosine}'
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, create_model

from distilcli.config.fields import Section, Temperature, Weight


class Schedule(Section):
    """A number that goes from one value to another over the steps of a run."""

    if TYPE_CHECKING:
        to: float
        schedule: Literal["linear", "cosine"]

    def at(self, progress: float) -> float:
        """The number at one step.

        Args:
            progress: 0 at the first step, 1 at the last.

        Source of the cosine: Loshchilov and Hutter 2017 (SGDR), eq. 5.
        """
        share = progress
        if self.schedule == "cosine":
            share = (1.0 - math.cos(math.pi * progress)) / 2.0
        start, end = self._ends
        return end if share == 1.0 else start + share * (end - start)

    @property
    def largest(self) -> float:
        """The largest value that it has at any step."""
        return max(self._ends)

    @property
    def _ends(self) -> tuple[float, float]:
        return getattr(self, "from"), self.to


def _schedule_of(number: Any, name: str, doc: str) -> Any:
    # A class body cannot have a field whose name is a word of Python.
    fields: dict[str, Any] = {
        "from": (number, Field(description="Value at the first step.")),
        "to": (number, Field(description="Value at the last step.")),
        "schedule": (
            Literal["linear", "cosine"],
            Field(
                "linear",
                description="linear: the same difference from each step to the next; cosine: half "
                "a period of a cosine, which changes slowly at both ends.",
            ),
        ),
    }
    return create_model(name, __base__=Schedule, __module__=__name__, __doc__=doc, **fields)


if TYPE_CHECKING:
    WeightSchedule: TypeAlias = Schedule
    TemperatureSchedule: TypeAlias = Schedule
else:
    WeightSchedule = _schedule_of(
        Weight, "WeightSchedule", "A weight that changes over the steps of a run."
    )
    TemperatureSchedule = _schedule_of(
        Temperature, "TemperatureSchedule", "A temperature that changes over the steps of a run."
    )


def _is_schedule(value: Any) -> str:
    return "schedule" if isinstance(value, dict | Schedule) else "number"


ScheduledWeight = Annotated[
    Annotated[Weight, Tag("number")] | Annotated[WeightSchedule, Tag("schedule")],
    Discriminator(_is_schedule),
]
ScheduledTemperature = Annotated[
    Annotated[Temperature, Tag("number")] | Annotated[TemperatureSchedule, Tag("schedule")],
    Discriminator(_is_schedule),
]
