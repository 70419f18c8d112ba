"""Settings of the losses: temperature, weights, positions."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from distilcli.config.fields import Number, Section, Temperature, Weight


class SampledPositions(Section):
    """The masked positions and a random share of the others, another in every epoch."""

    sample: Annotated[Number, Field(gt=0.0, lt=1.0)] = Field(
        description="Share of the unmasked positions that joins the masked ones."
    )


def _positions_kind(value: Any) -> str | None:
    if isinstance(value, dict | SampledPositions):
        return "sample"
    return "named" if value in get_args(NamedPositions) else None


NamedPositions = Literal["all", "masked"]
Positions = Annotated[
    Annotated[NamedPositions, Tag("named")] | Annotated[SampledPositions, Tag("sample")],
    Discriminator(
        _positions_kind,
        custom_error_type="positions",
        custom_error_message="must be all, masked or {sample: SHARE}",
    ),
]


class LossConfig(Section):
    """The loss terms and their weights; each term is a mean over its own tokens."""

    temperature: Temperature = Field(2.0, description="T of the soft targets (Hinton et al. 2015).")
    alpha_ce: Weight = Field(
        5.0, description="Weight of the soft targets, T^2 KL(teacher || student)."
    )
    alpha_mlm: Weight = Field(2.0, description="Weight of the masked-LM cross-entropy.")
    alpha_cos: Weight = Field(1.0, description="Weight of 1 - cosine of last hidden states.")
    alpha_mse: Weight = Field(0.0, description="Weight of the mean squared difference of logits.")
    positions: Positions = Field(
        "all",
        description="Tokens that soft targets and logit MSE look at: all, masked, or "
        "{sample: SHARE}, the masked ones and a random share of the others.",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossConfig":
        if not (self.alpha_ce or self.alpha_mlm or self.alpha_cos or self.alpha_mse):
            raise ValueError("every alpha is 0: there is nothing to learn")
        return self

    @property
    def unmasked_share(self) -> float:
        """Share of the unmasked positions that soft targets and logit MSE look at."""
        if isinstance(self.positions, SampledPositions):
            return self.positions.sample
        return 1.0 if self.positions == "all" else 0.0


class TaskLossConfig(Section):
    """The loss terms and their weights; each is a mean over its own examples, tags or tokens."""

    temperature: Temperature = Field(2.0, description="T of the soft targets (Hinton et al. 2015).")
    alpha_ce: Weight = Field(
        1.0,
        description="Weight of the soft targets, T^2 KL(teacher || student); for regression of "
        "the squared difference to the teacher's output.",
    )
    alpha_hard: Weight = Field(1.0, description="Weight of the labels.")
    alpha_cos: Weight = Field(0.0, description="Weight of 1 - cosine of last hidden states.")

    @model_validator(mode="after")
    def _something_to_learn(self) -> "TaskLossConfig":
        if not (self.alpha_ce or self.alpha_hard or self.alpha_cos):
            raise ValueError("every alpha is 0: there is nothing to learn")
        return self
