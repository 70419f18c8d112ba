"""An experiment on a downstream task: what `config.Experiment` is to masked-LM training.

With a teacher it is task distillation, with `teacher: null` plain fine-tuning; the loop is the
same. `experiment_file.load_any` reads one: an experiment with a `task` section is of this kind.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    model_validator,
)

from distilcli.config import (
    BaseExperiment,
    BaseTeacher,
    BaseValidation,
    OptimConfig,
    TrainConfig,
    as_list,
)
from distilcli.schema import (
    BelowOne,
    Count,
    Fraction,
    InputPath,
    LearningRate,
    Length,
    MaxNorm,
    ModelName,
    Number,
    OutputFolder,
    PositiveInt,
    Section,
    Temperature,
    Tokens,
    Weight,
)
from distilcli.student_config import CopiedStudent, StudentShape, student_kind

GlueName = Literal["CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]


class RowFiles(Section):
    """Examples in local files, a row each; `.gz` is opened by itself."""

    files: Annotated[list[InputPath], BeforeValidator(as_list), Field(min_length=1)] = Field(
        description="Paths or globs, in order."
    )
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "squad", "conll"] = Field(
        "auto",
        description="auto: by the file name's ending; for question answering .json is squad, for "
        "tagging .tsv and .txt are conll.",
    )
    columns: list[str] | None = Field(
        None, description="Names of the columns of a CSV, TSV or CoNLL file without a header row."
    )


class RowHub(Section):
    """Examples of a data set on the Hugging Face hub, or a folder that `datasets` can load."""

    hub: InputPath = Field(description="Data set name, such as nyu-mll/glue.")
    subset: str | None = Field(None, description="Configuration of the data set, such as cola.")
    split: str = Field(description="Split to read, such as train or validation.")
    revision: str | None = Field(None, description="Commit, tag or branch.")


def _row_source_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "hub" if "hub" in value else "files"
    return "hub" if isinstance(value, RowHub) else "files"


RowSource = Annotated[
    Annotated[RowFiles, Tag("files")] | Annotated[RowHub, Tag("hub")],
    Discriminator(_row_source_kind),
]


class BaseTask(Section):
    """What every task has."""

    max_length: Annotated[Length, Field(ge=8)] | None = Field(
        None,
        description="Tokens of an input at most, special ones included; longer text is cut. null: "
        "as many as the models have positions. Inputs are packed, so a limit that few of them "
        "reach costs nothing; a longer one costs time in proportion to its tokens.",
    )
    skip_bad_rows: StrictBool = Field(
        False, description="Leave out rows that cannot be used, and say how many; else refuse them."
    )


class RowTask(BaseTask):
    """A task whose examples are rows."""

    train: RowSource = Field(description="Examples to train on.")
    dev: RowSource = Field(description="Examples to be measured on.")


class TextTask(RowTask):
    """A task whose examples are texts or pairs of texts."""

    text: str = Field("text", description="Column of the text.")
    text_pair: str | None = Field(None, description="Column of the second text of a pair.")


class ClassificationTask(TextTask):
    """One class for a text, or for a pair of texts."""

    kind: Literal["classification"]
    label: str = Field("label", description="Column of the class.")
    labels: list[str] | None = Field(
        None, description="The classes in the order of their ids; null: those found, sorted."
    )
    score: Literal["accuracy", "f1", "macro_f1", "accuracy_f1", "matthews"] = Field(
        "accuracy",
        description="What the student is chosen and compared by; f1: of `positive`, where there "
        "are two classes; accuracy_f1: the mean of the two; macro_f1: the mean of F1 over the "
        "classes that occur.",
    )
    positive: str | None = Field(
        None,
        description="Of two classes the one that f1 is of; null: the last one, as listed in "
        "labels, or else sorted.",
    )


class MultiLabelTask(TextTask):
    """Any number of classes for a text, or for a pair of texts."""

    kind: Literal["multi-label"]
    label: str = Field("labels", description="Column of the classes: a list, or text with commas.")
    labels: list[str] | None = Field(
        None, description="The classes in the order of their ids; null: those found, sorted."
    )
    score: Literal["micro_f1", "macro_f1", "exact_match"] = Field(
        "micro_f1", description="What the student is chosen and compared by."
    )


class RegressionTask(TextTask):
    """A number for a text, or for a pair of texts."""

    kind: Literal["regression"]
    label: str = Field("label", description="Column of the number.")
    score: Literal["pearson", "spearman", "pearson_spearman"] = Field(
        "pearson_spearman",
        description="What the student is chosen and compared by; pearson_spearman: their mean.",
    )


class QuestionAnsweringTask(RowTask):
    """The answer to a question, as a span of a context (SQuAD 1.1)."""

    kind: Literal["question-answering"]
    max_length: Annotated[Length, Field(ge=16)] = Field(
        384, description="Tokens of a window: question, piece of context, special tokens."
    )
    stride: Length = Field(
        128, description="Tokens by which windows of a long context overlap (Devlin et al. 2019)."
    )
    max_question_length: Annotated[Length, Field(ge=1)] = Field(
        64, description="Tokens of a question at most; longer ones are cut."
    )
    max_answer_length: Annotated[Length, Field(ge=1)] = Field(
        30, description="Tokens of an answer at most."
    )
    score: Literal["f1", "exact_match"] = Field(
        "f1", description="What the student is chosen and compared by."
    )

    @model_validator(mode="after")
    def _windows_move_on(self) -> "QuestionAnsweringTask":
        # Three special tokens; what is left of the window must be more than the overlap.
        if self.max_length - self.max_question_length - 3 <= self.stride:
            raise ValueError(
                f"max_length {self.max_length} leaves no room for more than stride {self.stride} "
                f"beside a question of max_question_length {self.max_question_length}"
            )
        return self


class TaggingTask(RowTask):
    """A tag for each word of a sentence."""

    kind: Literal["tagging"]
    words: str = Field("tokens", description="Column of the words; a list, or a CoNLL column.")
    tags: str = Field("tags", description="Column of the tags; a list, or a CoNLL column.")
    labels: list[str] | None = Field(
        None, description="The tags in the order of their ids; null: those found, sorted."
    )
    score: Literal["accuracy", "macro_f1", "entity_f1"] = Field(
        "accuracy",
        description="What the student is chosen and compared by; entity_f1: of whole entities, "
        "for tags such as B-PER, I-PER, O, of BIOES or BILOU, as seqeval counts them.",
    )


class GlueTask(BaseTask):
    """One of the nine GLUE tasks, from its own untouched files or from the hub."""

    kind: Literal["glue"]
    name: GlueName = Field(description="Which task.")
    folder: InputPath | None = Field(
        None, description="Folder with its train.tsv and dev.tsv; null: nyu-mll/glue on the hub."
    )


def _task_kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind"))
    return str(getattr(value, "kind", "classification"))


Task = Annotated[
    Annotated[ClassificationTask, Tag("classification")]
    | Annotated[MultiLabelTask, Tag("multi-label")]
    | Annotated[RegressionTask, Tag("regression")]
    | Annotated[QuestionAnsweringTask, Tag("question-answering")]
    | Annotated[TaggingTask, Tag("tagging")]
    | Annotated[GlueTask, Tag("glue")],
    Discriminator(_task_kind),
]


class TaskTeacher(BaseTeacher):
    """A teacher with a head that was fine-tuned for the task."""

    cache: OutputFolder | None = Field(
        "data/teacher-outputs",
        description="Folder where its outputs are kept, so that it runs once over the training "
        "examples and not in every epoch; null: it runs in every step.",
    )


class TaskCheckpoint(StudentShape):
    """A student that starts as a saved BERT or DistilBERT, with the head it has or a new one."""

    kind: Literal["checkpoint"] = "checkpoint"
    model: ModelName = Field(
        description="Folder, hub name or builtin:NAME of the model to start from."
    )

    @property
    def named_model(self) -> str | None:
        """The model that this section names."""
        return self.model


TaskStudent = Annotated[
    Annotated[CopiedStudent, Tag("copied")] | Annotated[TaskCheckpoint, Tag("checkpoint")],
    Discriminator(student_kind),
]


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


class Augmentation(Section):
    """Changed copies of the training examples, which only the teacher labels."""

    copies: Annotated[PositiveInt, Field(le=1000)] = Field(
        4, description="Copies of each training example, in every epoch."
    )
    replaced: Annotated[Number, Field(gt=0.0, lt=1.0)] = Field(
        0.15, description="Share of a copy's tokens that others of the task stand in for."
    )


class TaskOptim(OptimConfig):
    """AdamW, linear warm-up, linear decay to zero. Defaults: fine-tuning as in BERT's paper."""

    lr: LearningRate = Field(5e-5, description="Peak learning rate.")
    betas: tuple[BelowOne, BelowOne] = Field((0.9, 0.999), description="AdamW's betas.")
    weight_decay: Weight = Field(
        0.01, description="On matrices and embeddings; never on biases and norms."
    )
    warmup_fraction: Fraction = Field(
        0.1, description="Share of the steps with rising learning rate."
    )
    max_grad_norm: MaxNorm = Field(1.0, description="Global norm to clip to; .inf: not at all.")


class TaskTrain(TrainConfig):
    """The batch, the length of the run, and what is written on the way."""

    global_batch_size: Tokens = Field(
        32, description="Inputs in one optimiser step, over all processes and micro-batches."
    )


class TaskValidation(BaseValidation):
    """Validation on the dev examples while training."""

    every: Count = Field(0, description="Steps between validations; 0: only after the last step.")


class TaskExperiment(BaseExperiment):
    """Everything that one run on a task depends on."""

    task: Task
    teacher: TaskTeacher | None = Field(
        description="null: no teacher; plain fine-tuning on the labels."
    )
    student: TaskStudent
    loss: TaskLossConfig = Field(default_factory=TaskLossConfig)
    augmentation: Augmentation | None = Field(
        None, description="More examples for the teacher to label; null: none."
    )
    optim: TaskOptim = Field(default_factory=TaskOptim)
    train: TaskTrain = Field(default_factory=TaskTrain)
    validation: TaskValidation = Field(default_factory=TaskValidation)

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskExperiment":
        if self.teacher is None and self.model_source is None:
            raise ValueError("without a teacher, student.source must name a model")
        if self.teacher is None and not self.loss.alpha_hard:
            raise ValueError("without a teacher, loss.alpha_hard must be above 0")
        from_teacher = self.teacher and (self.loss.alpha_ce or self.loss.alpha_cos)
        if self.augmentation is not None and not from_teacher:
            raise ValueError(
                "augmentation: copies have no labels; they need a teacher, and loss.alpha_ce or "
                "loss.alpha_cos above 0"
            )
        longest = self.task.max_length
        if longest is not None and self.train.tokens_per_micro_batch < longest:
            raise ValueError(
                f"train.tokens_per_micro_batch {self.train.tokens_per_micro_batch} "
                f"is under task.max_length {self.task.max_length}"
            )
        return self
