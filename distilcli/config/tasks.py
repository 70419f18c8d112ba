"""Settings of downstream tasks: one section for each kind of task, with its rows and columns."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, StrictBool, Tag, model_validator

from distilcli.config.data import RowFiles, RowHub, RowSource, TransferSource
from distilcli.config.fields import InputPath, Length, Number, PositiveInt, Section
from distilcli.config.row_outputs import RowOutputs

GlueName = Literal["CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]


class BaseTask(Section):
    """What every task has."""

    max_length: Annotated[Length, Field(ge=8)] | None = Field(
        None,
        description="Tokens of an input at most, special ones included; longer text is cut. null: "
        "as many as the models have positions. Inputs are packed, so a limit that few of them "
        "reach costs nothing; a longer one costs time in proportion to its tokens.",
    )
    skip_bad_rows: StrictBool = Field(
        False,
        description="Leave out rows that cannot be used and say how many; false: refuse them.",
    )

    @property
    def asks_for_number(self) -> bool:
        """Whether its output is a number, not a distribution over classes."""
        return False

    @property
    def ranks(self) -> bool:
        """Whether its inputs are the candidates of queries."""
        return False

    @property
    def has_named_classes(self) -> bool:
        """Whether it gives classes to single texts, of which a sentence can say one."""
        return False


class TaughtTask(BaseTask):
    """A task whose outputs a teacher may say, also of rows without labels, or a file."""

    transfer: TransferSource | None = Field(
        None,
        description="Rows without labels, which only a teacher labels; null: none. They have the "
        "columns of the other rows, but for labels, which are not read.",
    )
    teacher_outputs: RowOutputs | None = Field(
        None,
        description="The teacher is a file: its outputs for the rows, which are the soft targets. "
        "null: it is the model that `teacher` names.",
    )

    @property
    def writes_outputs(self) -> bool:
        """Whether a model's outputs can be written down, a row of outputs for each row."""
        return True

    @model_validator(mode="after")
    def _outputs_fit(self) -> Self:
        if self.teacher_outputs is not None:
            self.check_outputs(self.teacher_outputs)
        return self

    def check_outputs(self, outputs: RowOutputs) -> None:
        """Refuse a teacher's outputs that this kind of task cannot have.

        Raises:
            ValueError: naming the key below `teacher_outputs`.
        """
        is_number = outputs.holds == "number"
        if self.asks_for_number and outputs.holds not in (None, "number"):
            raise ValueError(
                f"teacher_outputs.holds: {outputs.holds}, but the output of this task is a number; "
                "set it to number"
            )
        if is_number and not self.asks_for_number:
            raise ValueError(
                "teacher_outputs.holds: number, but this task has classes; set it to logits or "
                "probabilities"
            )
        if self.asks_for_number and outputs.columns is not None:
            raise ValueError(
                "teacher_outputs.columns: the output of this task is one number; name its column"
            )


class RowTask(TaughtTask):
    """A task whose examples are rows."""

    train: RowSource | None = Field(
        None,
        description="Examples to train on. With a teacher, one without a label has the teacher's "
        "outputs as its only targets. null: rows of `transfer` alone.",
    )
    dev: RowSource = Field(description="Examples to be measured on.")

    def folders(self) -> dict[str, str]:
        """The folders or hub names that are read as a whole, by their keys below `task`."""
        found = {f"{split}.hub": one.folder for split, one in self._sources().items()}
        return {key: folder for key, folder in found.items() if folder is not None}

    def places(self) -> dict[str, str]:
        """Where the rows of each split come from, for people."""
        return {split: source.place for split, source in self._sources().items()}

    def _sources(self) -> dict[str, RowFiles | RowHub]:
        sources = {"train": self.train, "transfer": self.transfer, "dev": self.dev}
        return {split: source for split, source in sources.items() if source is not None}

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if self.train is None and self.transfer is None:
            raise ValueError(
                "train is required: rows to train on, or in transfer rows that a teacher labels"
            )
        return self


class TextTask(RowTask):
    """A task whose examples are texts or pairs of texts."""

    text: str = Field("text", description="Column of the text.")
    text_pair: str | None = Field(None, description="Column of the second text of a pair.")

    @property
    def has_named_classes(self) -> bool:
        """Those of one text do that give it classes, and no number."""
        return self.text_pair is None and not self.asks_for_number


class ClassificationTask(TextTask):
    """One class for a text, or for a pair of texts."""

    kind: Literal["classification"]
    label: str = Field("label", description="Column of the class.")
    labels: list[str] | None = Field(
        None, description="The classes in the order of their ids; null: those found, sorted."
    )
    score: Literal["accuracy", "f1", "macro_f1", "accuracy_f1", "matthews"] = Field(
        "accuracy",
        description="Score by which the student is chosen and compared; f1: that of `positive`, "
        "where there are two classes; accuracy_f1: the mean of the two; macro_f1: the mean of F1 "
        "over the classes that occur.",
    )
    positive: str | None = Field(
        None,
        description="The class that f1 is computed for, where there are two; null: the last one, "
        "as listed in labels, or else sorted.",
    )


class MultiLabelTask(TextTask):
    """Any number of classes for a text, or for a pair of texts."""

    kind: Literal["multi-label"]
    label: str = Field("labels", description="Column of the classes: a list, or text with commas.")
    labels: list[str] | None = Field(
        None, description="The classes in the order of their ids; null: those found, sorted."
    )
    score: Literal["micro_f1", "macro_f1", "exact_match"] = Field(
        "micro_f1", description="Score by which the student is chosen and compared."
    )


class RegressionTask(TextTask):
    """A number for a text, or for a pair of texts."""

    kind: Literal["regression"]
    label: str = Field("label", description="Column of the number.")
    score: Literal["pearson", "spearman", "pearson_spearman"] = Field(
        "pearson_spearman",
        description="Score by which the student is chosen and compared; pearson_spearman: their "
        "mean.",
    )

    @property
    def asks_for_number(self) -> bool:
        """Always."""
        return True


class RerankingTask(RowTask):
    """An order for the candidates of a query: a score of each pair of query and document."""

    called: ClassVar[dict[str, str]] = {"text": "query", "text_pair": "document"}

    kind: Literal["reranking"]
    query: str = Field("query", description="Column of the query.")
    document: str = Field(
        "document",
        description="Column of the document; or of a list of all documents of the query.",
    )
    label: str = Field(
        "label",
        description="Column of how relevant the document is: 0 (it is not) or more; or of a list "
        "of that, one for each document.",
    )
    query_id: str | None = Field(
        None,
        description="Column by which rows of one document each are of the same query; null: by "
        "the query itself.",
    )
    score: Literal["ndcg@10", "mrr@10"] = Field(
        "ndcg@10", description="Score by which the student is chosen and compared."
    )

    @property
    def asks_for_number(self) -> bool:
        """Always: a score."""
        return True

    @property
    def ranks(self) -> bool:
        """Always."""
        return True

    def check_outputs(self, outputs: RowOutputs) -> None:
        """Refuse what a query's candidates cannot have.

        Raises:
            ValueError: naming the key below `teacher_outputs`.
        """
        super().check_outputs(outputs)
        if outputs.id is not None:
            raise ValueError(
                "teacher_outputs.id: the scores of a query's candidates are matched by query and "
                "document; leave id out"
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
        "f1", description="Score by which the student is chosen and compared."
    )

    @property
    def writes_outputs(self) -> bool:
        """No: they are of the tokens of one tokenizer."""
        return False

    def check_outputs(self, outputs: RowOutputs) -> None:
        """Refuse them: tokens are not the same for two tokenizers, and answers are among tokens."""
        raise ValueError(
            "teacher_outputs: answers are found among the tokens of one tokenizer, which a file "
            "does not know; name a model as teacher"
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

    called: ClassVar[dict[str, str]] = {"text": "words", "label": "tags"}

    kind: Literal["tagging"]
    max_length: Annotated[Length, Field(ge=8)] | None = Field(
        None,
        description="Tokens of an input at most, special ones included; a longer sentence is read "
        "in several inputs, and only a word that is longer than one is cut. null: as many as the "
        "models have positions.",
    )
    words: str = Field("tokens", description="Column of the words; a list, or a CoNLL column.")
    tags: str = Field("tags", description="Column of the tags; a list, or a CoNLL column.")
    labels: list[str] | None = Field(
        None, description="The tags in the order of their ids; null: those found, sorted."
    )
    score: Literal["accuracy", "macro_f1", "entity_f1"] = Field(
        "accuracy",
        description="Score by which the student is chosen and compared; entity_f1: F1 of whole "
        "entities, for tags such as B-PER, I-PER, O, of BIOES or BILOU, as seqeval counts them.",
    )

    def check_outputs(self, outputs: RowOutputs) -> None:
        """Refuse a column for each class: a sentence has outputs for each of its words."""
        super().check_outputs(outputs)
        if outputs.columns is not None:
            raise ValueError(
                "teacher_outputs.columns: a sentence has outputs for each of its words; name the "
                "column that holds a list of them"
            )


class GlueTask(TaughtTask):
    """One of the nine GLUE tasks, from its own untouched files or from the hub."""

    kind: Literal["glue"]
    name: GlueName = Field(description="Which task.")
    folder: InputPath | None = Field(
        None, description="Folder with its train.tsv and dev.tsv; null: nyu-mll/glue on the hub."
    )

    @property
    def asks_for_number(self) -> bool:
        """Of the nine only STS-B does: how similar two sentences are."""
        return self.name == "STS-B"

    @property
    def has_named_classes(self) -> bool:
        """All but two of the nine are about pairs."""
        return self.name in ("CoLA", "SST-2")

    def folders(self) -> dict[str, str]:
        """The folder that is read as a whole, if there is one, by its key below `task`."""
        found = {} if self.folder is None else {"folder": self.folder}
        if self.transfer is not None and self.transfer.folder is not None:
            found["transfer.hub"] = self.transfer.folder
        return found

    def places(self) -> dict[str, str]:
        """Where the rows of each split come from, for people."""
        place = f"{self.name}, {self.folder or 'nyu-mll/glue on the hub'}"
        transfer = {} if self.transfer is None else {"transfer": self.transfer.place}
        return {"train": place, **transfer, "dev": place}


def _task_kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind"))
    return str(getattr(value, "kind", "classification"))


Task = Annotated[
    Annotated[ClassificationTask, Tag("classification")]
    | Annotated[MultiLabelTask, Tag("multi-label")]
    | Annotated[RegressionTask, Tag("regression")]
    | Annotated[RerankingTask, Tag("reranking")]
    | Annotated[QuestionAnsweringTask, Tag("question-answering")]
    | Annotated[TaggingTask, Tag("tagging")]
    | Annotated[GlueTask, Tag("glue")],
    Discriminator(_task_kind),
]


class Augmentation(Section):
    """Changed copies of the training examples, which only the teacher labels."""

    copies: Annotated[PositiveInt, Field(le=1000)] = Field(
        4, description="Copies of each training example, in every epoch."
    )
    replaced: Annotated[Number, Field(gt=0.0, lt=1.0)] = Field(
        0.15, description="Share of a copy's tokens that are replaced by other tokens of the task."
    )
