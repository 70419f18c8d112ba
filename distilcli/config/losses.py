"""Settings of the losses: temperature, positions, and a section for each term with its weight."""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from distilcli.config.fields import Number, Section
from distilcli.config.inner_losses import (
    AttentionDistributionsConfig,
    AttentionRelationsConfig,
    EmbeddingsConfig,
    HiddenStatesConfig,
)
from distilcli.config.loss_terms import SoftenedTermConfig, TermConfig
from distilcli.config.schedules import Schedule, ScheduledTemperature, ScheduledWeight


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


class SoftTargetsConfig(SoftenedTermConfig):
    """Soft targets: T^2 KL(teacher || student)."""

    weight: ScheduledWeight = Field(
        5.0, description="Weight of the soft targets, L_ce (alpha_ce in the paper)."
    )


class MaskedLMConfig(TermConfig):
    """Hard targets: the cross-entropy of the masked tokens."""

    on_logits: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        2.0, description="Weight of the masked-LM loss, L_mlm (alpha_mlm)."
    )


class HiddenCosineConfig(TermConfig):
    """1 - cosine of the last hidden states of student and teacher, over all tokens."""

    looks_inside: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        1.0, description="Weight of the cosine distance, L_cos (alpha_cos)."
    )


class LogitMSEConfig(TermConfig):
    """The mean over the vocabulary of the squared difference of logits."""

    on_logits: ClassVar[bool] = True
    for_several_teachers: ClassVar[bool] = False

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the squared error, L_mse (alpha_mse in the release by Sanh et al.).",
    )


class ReverseKLConfig(SoftenedTermConfig):
    """T^2 KL(student || teacher), which prefers some of the teacher's modes to all of them."""

    for_numbers: ClassVar[bool] = False

    weight: ScheduledWeight = Field(
        0.0, description="Weight of the reverse KL divergence (Gu et al. 2024, MiniLLM)."
    )


class JensenShannonConfig(SoftenedTermConfig):
    """T^2 times the Jensen-Shannon divergence, which is symmetric and never above T^2 log 2."""

    for_numbers: ClassVar[bool] = False

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the Jensen-Shannon divergence (Lin 1991; Agarwal et al. 2024, GKD).",
    )


class BaseLoss(Section):
    """What the losses of all kinds of training share."""

    #: The term that needs no teacher.
    on_labels: ClassVar[str]

    temperature: ScheduledTemperature = Field(
        2.0,
        description="Temperature T of the terms that compare softened distributions (Hinton et al. "
        "2015).",
    )

    @property
    def terms(self) -> dict[str, TermConfig]:
        """The section of each term, by its name."""
        sections = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: one for name, one in sections if isinstance(one, TermConfig)}

    @property
    def weights(self) -> dict[str, float]:
        """The largest weight that each term ever has, by its name."""
        return {name: term.largest_weight for name, term in self.terms.items()}

    @property
    def temperatures(self) -> dict[str, float | Schedule]:
        """The temperature of each term, by its name."""
        found: dict[str, float | Schedule] = dict.fromkeys(self.terms, self.temperature)
        return found | {
            name: term.temperature
            for name, term in self.terms.items()
            if isinstance(term, SoftenedTermConfig) and term.temperature is not None
        }

    @property
    def asks_for_logits(self) -> bool:
        """Whether some term looks at what a masked-LM head says."""
        return any(t.on_logits and t.largest_weight > 0 for t in self.terms.values())

    @property
    def asks_for_labels(self) -> bool:
        """Whether the term that needs no teacher has a weight."""
        return self.weights[self.on_labels] > 0

    @property
    def asks_for_teacher(self) -> bool:
        """Whether some other term has a weight."""
        return any(weight for name, weight in self.weights.items() if name != self.on_labels)

    @property
    def averages_teachers(self) -> bool:
        """Whether some term with a weight compares outputs of which several have a mean."""
        return any(one.averages_teachers and one.largest_weight for one in self.terms.values())

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not any(self.weights.values()):
            raise ValueError("every weight is 0: there is nothing to learn")
        return self


class LossConfig(BaseLoss):
    """The terms of masked-LM training; the mean of each is over its own tokens."""

    on_labels: ClassVar[str] = "masked_lm"
    renamed: ClassVar[dict[str, str]] = {
        "alpha_ce": "soft_targets.weight",
        "alpha_mlm": "masked_lm.weight",
        "alpha_cos": "hidden_cosine.weight",
        "alpha_mse": "logit_mse.weight",
    }

    positions: Positions = Field(
        "all",
        description="Tokens at which logits are compared with the teacher's: all, masked, or "
        "{sample: SHARE}, the masked ones and a random share of the others.",
    )
    soft_targets: SoftTargetsConfig = Field(default_factory=SoftTargetsConfig)
    masked_lm: MaskedLMConfig = Field(default_factory=MaskedLMConfig)
    hidden_cosine: HiddenCosineConfig = Field(default_factory=HiddenCosineConfig)
    logit_mse: LogitMSEConfig = Field(default_factory=LogitMSEConfig)
    reverse_kl: ReverseKLConfig = Field(default_factory=ReverseKLConfig)
    jensen_shannon: JensenShannonConfig = Field(default_factory=JensenShannonConfig)
    hidden_states: HiddenStatesConfig = Field(default_factory=HiddenStatesConfig)
    embeddings: EmbeddingsConfig = Field(default_factory=EmbeddingsConfig)
    attention_relations: AttentionRelationsConfig = Field(default_factory=AttentionRelationsConfig)
    attention_distributions: AttentionDistributionsConfig = Field(
        default_factory=AttentionDistributionsConfig
    )

    @property
    def unmasked_share(self) -> float:
        """Share of the unmasked positions at which logits are compared."""
        if isinstance(self.positions, SampledPositions):
            return self.positions.sample
        return 1.0 if self.positions == "all" else 0.0


class TaskSoftTargetsConfig(SoftTargetsConfig):
    """Soft targets: T^2 KL(teacher || student); of numbers the squared difference."""

    weight: ScheduledWeight = Field(
        1.0, description="Weight of the soft targets, L_ce (alpha_ce in the paper)."
    )


class LabelsConfig(TermConfig):
    """Hard targets: the cross-entropy of the labels; of numbers the squared error.

    Of rankings it is the list-wise cross-entropy of each query's labels.
    """

    weight: ScheduledWeight = Field(1.0, description="Weight of the labels.")


class MarginMSEConfig(TermConfig):
    """The squared difference of score margins, over pairs of candidates of one query."""

    on_logits: ClassVar[bool] = True
    averages_teachers: ClassVar[bool] = True
    for_rankings_only: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of margin MSE (Hofstaetter et al. 2020): of relevant candidates with "
        "the others of their query, where labels say which these are, else of all pairs.",
    )


class ListwiseConfig(SoftenedTermConfig):
    """T^2 KL(teacher || student) of the softmax over the scores of a query's candidates."""

    for_rankings_only: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        0.0, description="Weight of the list-wise divergence (Cao et al. 2007, ListNet)."
    )


class TaskHiddenCosineConfig(HiddenCosineConfig):
    """1 - cosine of the last hidden states of student and teacher, over all tokens."""

    weight: ScheduledWeight = Field(
        0.0, description="Weight of the cosine distance, L_cos (alpha_cos)."
    )


class TaskLossConfig(BaseLoss):
    """The terms of training on a task; each mean is over its own examples, tags or tokens."""

    on_labels: ClassVar[str] = "labels"
    renamed: ClassVar[dict[str, str]] = {
        "alpha_ce": "soft_targets.weight",
        "alpha_hard": "labels.weight",
        "alpha_cos": "hidden_cosine.weight",
    }

    soft_targets: TaskSoftTargetsConfig = Field(default_factory=TaskSoftTargetsConfig)
    labels: LabelsConfig = Field(default_factory=LabelsConfig)
    hidden_cosine: TaskHiddenCosineConfig = Field(default_factory=TaskHiddenCosineConfig)
    reverse_kl: ReverseKLConfig = Field(default_factory=ReverseKLConfig)
    jensen_shannon: JensenShannonConfig = Field(default_factory=JensenShannonConfig)
    margin_mse: MarginMSEConfig = Field(default_factory=MarginMSEConfig)
    listwise: ListwiseConfig = Field(default_factory=ListwiseConfig)
    hidden_states: HiddenStatesConfig = Field(default_factory=HiddenStatesConfig)
    embeddings: EmbeddingsConfig = Field(default_factory=EmbeddingsConfig)
    attention_relations: AttentionRelationsConfig = Field(default_factory=AttentionRelationsConfig)
    attention_distributions: AttentionDistributionsConfig = Field(
        default_factory=AttentionDistributionsConfig
    )
