"""What the sections of all loss terms have: a weight, and some of them a temperature."""

from typing import Any, ClassVar

from pydantic import Field

from distilcli.config.fields import Section
from distilcli.config.schedules import Schedule, ScheduledTemperature, ScheduledWeight


class TermConfig(Section):
    """Settings of one term: a section of `loss` by the name that `losses/table.py` has."""

    #: Whether it means something where the output of a task is a number.
    for_numbers: ClassVar[bool] = True
    #: Whether it means something where several teachers are averaged.
    for_several_teachers: ClassVar[bool] = True
    #: Whether it looks at logits, and so needs models with a head.
    on_logits: ClassVar[bool] = False
    #: Whether it compares outputs of which those of several teachers have a mean.
    averages_teachers: ClassVar[bool] = False
    #: Whether it compares the candidates of a query, which only rankers have.
    for_rankings_only: ClassVar[bool] = False
    #: Whether it looks inside the teacher, and so needs a model, not its outputs alone.
    looks_inside: ClassVar[bool] = False

    weight: ScheduledWeight

    @property
    def largest_weight(self) -> float:
        """The largest weight that the term ever has; 0: it is not computed."""
        return self.weight.largest if isinstance(self.weight, Schedule) else self.weight

    @property
    def settings(self) -> dict[str, Any]:
        """What the term is told besides its weight and its temperature."""
        return self.model_dump(exclude={"weight", "temperature"})


class SoftenedTermConfig(TermConfig):
    """Settings of a term that compares softened distributions."""

    on_logits: ClassVar[bool] = True
    averages_teachers: ClassVar[bool] = True

    temperature: ScheduledTemperature | None = Field(
        None, description="Temperature T of this term; null: that of loss.temperature."
    )
