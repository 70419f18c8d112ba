"""Settings of the losses: temperature, positions, and a section for each term with its weight."""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Discriminator, Field, StrictInt, Tag, field_validator, model_validator

from distilcli.config.fields import MAX_LAYERS, Number, NumLayers, PositiveInt, Section
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


def _layers_kind(value: Any) -> str | None:
    return "list" if isinstance(value, list) else "uniform" if value == "uniform" else None


_TeacherLayers = Annotated[
    list[Annotated[StrictInt, Field(ge=0, le=MAX_LAYERS)] | None], Field(max_length=MAX_LAYERS)
]
TeacherLayers = Annotated[
    Annotated[Literal["uniform"], Tag("uniform")] | Annotated[_TeacherLayers, Tag("list")],
    Discriminator(
        _layers_kind,
        custom_error_type="teacher_layers",
        custom_error_message="must be uniform or a list of numbers of layers",
    ),
]


def _attention_layers_kind(value: Any) -> str | None:
    return "list" if isinstance(value, list) else "named" if value in ("last", "uniform") else None


_AttentionLayers = Annotated[list[NumLayers | None], Field(max_length=MAX_LAYERS)]
AttentionLayers = Annotated[
    Annotated[Literal["last", "uniform"], Tag("named")] | Annotated[_AttentionLayers, Tag("list")],
    Discriminator(
        _attention_layers_kind,
        custom_error_type="attention_layers",
        custom_error_message="must be last, uniform or a list of numbers of layers",
    ),
]


def _some_layer(layers: str | list[int | None]) -> str | list[int | None]:
    if isinstance(layers, list) and all(layer is None for layer in layers):
        raise ValueError("no layer is named")
    return layers


class TermConfig(Section):
    """Settings of one term: a section of `loss` by the name that `losses/table.py` has."""

    #: Whether it means something where the output of a task is a number.
    for_numbers: ClassVar[bool] = True
    #: Whether it means something where several teachers are averaged.
    for_several_teachers: ClassVar[bool] = True
    #: Whether it looks at logits, and so needs models with a head.
    on_logits: ClassVar[bool] = False

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

    temperature: ScheduledTemperature | None = Field(
        None, description="Temperature T of this term; null: that of loss.temperature."
    )


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


class HiddenStatesConfig(TermConfig):
    """The distance of hidden states after layers of both models, summed over the student's layers.

    A student of another width gets a learned projection to the teacher's.
    """

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the hidden states, L_hidn (Jiao et al. 2020).",
    )
    distance: Literal["mse", "cosine"] = Field(
        "mse",
        description="mse: the mean over the width of the squared difference (Jiao et al. 2020); "
        "cosine: 1 - cosine, half of PKD's L_PT (Sun et al. 2019).",
    )
    layers: TeacherLayers = Field(
        "uniform",
        description="For each layer of the student, after how many layers of the teacher the "
        "states are those to be met: 0 is what the first layer is given, null leaves one out. "
        "uniform: layer i of M has i N / M of N, rounded.",
    )

    @field_validator("layers")
    @classmethod
    def _compares_something(cls, layers: str | list[int | None]) -> str | list[int | None]:
        return _some_layer(layers)


class EmbeddingsConfig(TermConfig):
    """The mean over the width of the squared difference of what the first layers are given.

    A student of another width gets a learned projection to the teacher's.
    """

    weight: ScheduledWeight = Field(
        0.0, description="Weight of the embeddings, L_embd (Jiao et al. 2020)."
    )


class AttentionRelationsConfig(TermConfig):
    """KL(teacher || student) of how the tokens of a sequence are related in a layer of attention.

    Of the last layer of the student and a layer of the teacher; widths and heads may differ.
    """

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the relations of attention (Wang et al. 2021, MiniLMv2).",
    )
    relations: Annotated[list[Literal["query", "key", "value"]], Field(min_length=1)] = Field(
        ["query", "key", "value"],
        description="What tokens are related by: query, key, value, or some of them.",
    )
    num_heads: PositiveInt | None = Field(
        None,
        description="Relation heads, parts that queries, keys and values are cut into; must divide "
        "the widths of both models. null: as many as have 16 numbers each in the teacher, or fewer "
        "that divide both.",
    )
    teacher_layer: NumLayers | None = Field(
        None, description="Layer of the teacher, from 1. null: the last one."
    )

    @field_validator("relations")
    @classmethod
    def _each_once(cls, relations: list[str]) -> list[str]:
        if len(set(relations)) < len(relations):
            raise ValueError("each may be there once")
        return relations


class AttentionDistributionsConfig(TermConfig):
    """The distance of where the tokens attend to in both models, head by head.

    Both models need the same number of heads.
    """

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the distributions of attention, L_AT (Wang et al. 2020, MiniLM) or "
        "L_attn (Jiao et al. 2020).",
    )
    distance: Literal["kl", "mse"] = Field(
        "kl",
        description="kl: KL(teacher || student) of the distributions (MiniLM); mse: the squared "
        "difference of the scores before the softmax (Jiao et al. 2020).",
    )
    layers: AttentionLayers = Field(
        "last",
        description="last: the last layers of both models (MiniLM); uniform: layer i of M of the "
        "student and i N / M of N of the teacher, rounded (Jiao et al.); or for each layer of the "
        "student one of the teacher, from 1, null leaves one out.",
    )

    @field_validator("layers")
    @classmethod
    def _compares_something(cls, layers: str | list[int | None]) -> str | list[int | None]:
        return _some_layer(layers)


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
        """Whether some term with a weight compares distributions, of which several have a mean."""
        terms = self.terms.values()
        return any(isinstance(one, SoftenedTermConfig) and one.largest_weight for one in terms)

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
    """Hard targets: the cross-entropy of the labels; of numbers the squared error."""

    weight: ScheduledWeight = Field(1.0, description="Weight of the labels.")


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
    hidden_states: HiddenStatesConfig = Field(default_factory=HiddenStatesConfig)
    embeddings: EmbeddingsConfig = Field(default_factory=EmbeddingsConfig)
    attention_relations: AttentionRelationsConfig = Field(default_factory=AttentionRelationsConfig)
    attention_distributions: AttentionDistributionsConfig = Field(
        default_factory=AttentionDistributionsConfig
    )
