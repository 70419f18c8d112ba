"""Settings of the models: the teacher, and how a student starts."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Discriminator, Field, StrictBool, StrictInt, Tag, model_validator

from distilcli.config.fields import (
    MAX_LAYERS,
    MAX_OTHER_TEACHERS,
    MAX_VOCABULARY,
    Fraction,
    ModelName,
    NumLayers,
    OutputFolder,
    PositiveInt,
    Precision,
    Section,
    TeacherWeight,
    Width,
)

LayerList = Annotated[
    list[Annotated[StrictInt, Field(ge=0, lt=MAX_LAYERS)]], Field(max_length=MAX_LAYERS)
]
LayerStrategy = Literal["alternate", "spread", "top", "bottom"]
Architecture = Literal["auto", "distilbert", "same"]
_DescribedArchitecture = Annotated[
    Architecture,
    Field(
        description="What the student is: distilbert: a DistilBERT; same: what its source is, with "
        "fewer layers; auto: a DistilBERT where one can compute what the source does, else the "
        "same.",
    ),
]


def _layers_kind(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "strategy" if value in get_args(LayerStrategy) else None


# A union with a say on which part is meant, so that a mistake is one error and not one for each.
Layers = Annotated[
    Annotated[LayerStrategy, Tag("strategy")] | Annotated[LayerList, Tag("list")],
    Discriminator(
        _layers_kind,
        custom_error_type="layers",
        custom_error_message="must be alternate, spread, top, bottom or a list of layer numbers",
    ),
]


class VocabularyConfig(Section):
    """The part of a vocabulary that a student keeps, counted in the training text.

    Special and added tokens stay, and so does what every text can be spelled with.
    """

    keep: Annotated[StrictInt, Field(gt=0, le=MAX_VOCABULARY)] | None = Field(
        None,
        description="Keep at most so many tokens, the most frequent ones; null: as many as occur.",
    )
    corpus: StrictBool = Field(
        False, description="Keep every piece that occurs often enough, however many these are."
    )
    min_count: PositiveInt = Field(
        1, description="How often a piece must occur in the training text to be kept."
    )

    @model_validator(mode="after")
    def _says_what_to_keep(self) -> "VocabularyConfig":
        if self.keep is None and not self.corpus:
            raise ValueError("needs keep, such as {keep: 8000}, or {corpus: true}")
        return self


class StudentShape(Section):
    """What every student may set."""

    dropout: Fraction | None = Field(
        None,
        description="Dropout of embeddings and layers while training; null: that of the source "
        "model.",
    )
    attention_dropout: Fraction | None = Field(
        None,
        description="Dropout of attention probabilities while training; null: that of the source "
        "model.",
    )

    # The key of the model that this section names.
    source_key: ClassVar[str]

    @property
    def named_model(self) -> str | None:
        """The model that this section names, if it names one."""
        name: str | None = getattr(self, self.source_key)
        return name

    @property
    def kept_vocabulary(self) -> VocabularyConfig | None:
        """The part of its source's vocabulary that it keeps; None: all of it."""
        return None

    @property
    def is_computed(self) -> bool:
        """Whether its weights are computed from a text: rounding may differ between machines."""
        return False

    @property
    def in_words(self) -> str:
        """How the student starts."""
        return f"checkpoint {self.named_model}"


class Widths(StudentShape):
    """How wide a student is that is not as wide as its source."""

    hidden_size: Width | None = Field(
        None, description="Width of hidden states; null: that of the source."
    )
    num_heads: Width | None = Field(
        None,
        description="Attention heads of a layer; null: as many as the source has if they divide "
        "hidden_size, else heads of the same size.",
    )
    intermediate_size: Width | None = Field(
        None,
        description="Width inside feed-forward networks; null: that of the source, smaller in "
        "proportion to hidden_size.",
    )


class TaskCopiedStudent(Widths):
    """A student that starts with layers copied from a larger model, and is of its class."""

    kind: Literal["copied"] = "copied"
    num_layers: NumLayers | None = Field(
        None, description="Number of layers; null: half as many as the source has."
    )
    layers: Layers = Field(
        "alternate",
        description="Which source layers to copy: a strategy or a list of indices from 0.",
    )
    source: ModelName | None = Field(None, description="Model to copy from; null: the teacher.")

    source_key: ClassVar[str] = "source"

    @property
    def is_computed(self) -> bool:
        """Whether its weights are computed from a text: rounding may differ between machines."""
        widths = self.hidden_size, self.num_heads, self.intermediate_size
        return widths != (None, None, None)

    @property
    def in_words(self) -> str:
        """How the student starts."""
        return "copied layers"


class CopiedEncoderStudent(TaskCopiedStudent):
    """A student without a head that starts with layers copied from a larger model."""

    architecture: _DescribedArchitecture = "auto"


class CopiedStudent(CopiedEncoderStudent):
    """A student that starts with layers copied from a larger model (Sanh et al. 2019, sec. 3)."""

    vocabulary: VocabularyConfig | None = Field(
        None, description="The part of the source's vocabulary that it keeps; null: all of it."
    )

    @property
    def kept_vocabulary(self) -> VocabularyConfig | None:
        """The part of its source's vocabulary that it keeps; None: all of it."""
        return self.vocabulary


class CheckpointStudent(StudentShape):
    """A student that starts as a saved model."""

    kind: Literal["checkpoint"] = "checkpoint"
    model: ModelName = Field(
        description="Folder, hub name or builtin:NAME of the model to start from."
    )
    new_head: StrictBool = Field(
        False,
        description="Give a model without a masked-LM head a new one, tied to its embeddings.",
    )

    source_key: ClassVar[str] = "model"


class RandomStudent(Widths):
    """A student with random weights, in the shape that `copied` would have."""

    kind: Literal["random"] = "random"
    num_layers: NumLayers | None = Field(
        None, description="Number of layers; null: half as many as `like` has."
    )
    like: ModelName | None = Field(
        None, description="Model that gives widths, vocabulary, tokenizer; null: the teacher."
    )

    architecture: _DescribedArchitecture = "auto"

    source_key: ClassVar[str] = "like"

    @property
    def in_words(self) -> str:
        """How the student starts."""
        return "random weights"


def student_kind(value: Any) -> str:
    """The tag of a student section; `copied` where it says none."""
    if isinstance(value, dict):
        return str(value.get("kind", "copied"))
    return str(getattr(value, "kind", "copied"))


Student = Annotated[
    Annotated[CopiedStudent, Tag("copied")]
    | Annotated[CheckpointStudent, Tag("checkpoint")]
    | Annotated[RandomStudent, Tag("random")],
    Discriminator(student_kind),
]


class NamedTeacher(Section):
    """A model whose behaviour the student learns."""

    model: ModelName = Field(description="Folder, hub name or builtin:NAME.")
    revision: str | None = Field(None, description="Hub revision (commit, tag or branch).")
    precision: Precision = Field(
        "auto",
        description="Precision of the teacher's weights; auto: bf16 where the hardware computes "
        "in it.",
    )

    @property
    def by_key(self) -> Mapping[str, "NamedTeacher"]:
        """All teachers by the section of the settings that names each, the first one first."""
        return {"teacher": self}


class TeacherModel(NamedTeacher):
    """One of the models whose behaviour the student learns."""

    weight: TeacherWeight = Field(
        1.0, description="Weight in the mean of several teachers; only their ratio counts."
    )


class BaseTeacher(TeacherModel):
    """The model whose behaviour the student learns."""

    others: Annotated[list[TeacherModel], Field(max_length=MAX_OTHER_TEACHERS)] = Field(
        default_factory=list,
        description="More teachers, which read the same tokens: the student learns the mean of "
        "all distributions. Layers are copied from the first, and hidden states compared with it.",
    )

    @property
    def by_key(self) -> dict[str, TeacherModel]:
        """All teachers by the section of the settings that names each, the first one first."""
        others = enumerate(self.others)
        return {"teacher": self} | {f"teacher.others.{index}": one for index, one in others}

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of each teacher in the mean, in the order of `by_key`; they add up to 1."""
        weights = [teacher.weight for teacher in self.by_key.values()]
        return tuple(weight / sum(weights) for weight in weights)


class TeacherConfig(BaseTeacher):
    """A teacher with a masked-LM head."""

    offload: bool = Field(
        False,
        description="Keep the teacher's layers in host memory, and each on the device only while "
        "it computes: for a teacher that does not fit beside the student.",
    )


class TaskTeacherModel(TeacherModel):
    """One of the teachers of a task: fine-tuned for it, or a model of entailment."""

    hypothesis: str | None = Field(
        None,
        description="For a model of natural language inference, which labels texts that it was not "
        "trained on: a sentence with {} in the place of the class, such as 'This text is about "
        "{}.'; null: the teacher is fine-tuned for the task.",
    )
    hypotheses: dict[str, str] | None = Field(
        None,
        description="The same with a sentence of its own for each class, by the names of the "
        "classes.",
    )

    @property
    def is_zero_shot(self) -> bool:
        """Whether it says what follows from a text, and not what the text's class is."""
        return self.hypothesis is not None or self.hypotheses is not None

    @model_validator(mode="after")
    def _says_hypotheses_once(self) -> "TaskTeacherModel":
        if self.hypothesis is not None and self.hypotheses is not None:
            raise ValueError("hypothesis and hypotheses exclude each other; leave one out")
        if self.hypothesis is not None and self.hypothesis.count("{}") != 1:
            raise ValueError(
                "hypothesis must have {} once, in the place of the class, such as 'This text is "
                "about {}.'"
            )
        sentences = self.hypotheses if self.hypotheses is not None else {"a": "b", "c": "d"}
        if len(sentences) < 2 or not all(map(str.strip, sentences.values())):
            raise ValueError("hypotheses must have a sentence for each of two classes or more")
        return self


class TaskTeacher(BaseTeacher, TaskTeacherModel):
    """A teacher with a head that was fine-tuned for the task, or a model of entailment."""

    others: list[TaskTeacherModel] = Field(  # type: ignore[assignment]  # nobody adds to it
        max_length=MAX_OTHER_TEACHERS,
        default_factory=list,
        description="More teachers: the student learns the mean of all distributions. Layers are "
        "copied from the first, and hidden states compared with it.",
    )
    cache: OutputFolder | None = Field(
        "data/teacher-outputs",
        description="Folder where its outputs are kept, so that it runs once over the training "
        "examples and not in every epoch; null: it runs in every step.",
    )


class TaskCheckpointStudent(StudentShape):
    """A student that starts as a saved model, with the head it has or a new one."""

    kind: Literal["checkpoint"] = "checkpoint"
    model: ModelName = Field(
        description="Folder, hub name or builtin:NAME of the model to start from."
    )

    source_key: ClassVar[str] = "model"


TaskStudent = Annotated[
    Annotated[TaskCopiedStudent, Tag("copied")]
    | Annotated[TaskCheckpointStudent, Tag("checkpoint")],
    Discriminator(student_kind),
]
