"""Settings of embeddings: one vector for a text, learnt from a teacher's vectors.

An experiment of its own: the task needs no labels, and its losses compare vectors.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    Tag,
    model_validator,
)

from distilcli.config.data import RowFiles, RowHub, as_list, row_source_kind
from distilcli.config.experiment import BaseExperiment
from distilcli.config.fields import Length, OutputFolder, Section, Tokens, Width
from distilcli.config.loss_terms import TermConfig
from distilcli.config.models import (
    CopiedEncoderStudent,
    Layers,
    NamedTeacher,
    TaskCheckpointStudent,
    student_kind,
)
from distilcli.config.schedules import Schedule, ScheduledTemperature, ScheduledWeight
from distilcli.config.tasks import BaseTask
from distilcli.config.training import OptimConfig, TaskTrain, TaskValidation

EMBEDDING = "embedding"
_FORMATS = Literal["auto", "text", "csv", "tsv", "jsonl", "parquet"]


class TextFiles(RowFiles):
    """Texts in local files, a row each; `.gz` is opened by itself."""

    format: _FORMATS = Field(  # type: ignore[assignment]
        "auto",
        description="Format of the files; text: a text on each line. auto goes by the endings of "
        "their names, of which .txt is text.",
    )


class _Pairs(Section):
    """Columns of pairs of texts with a score."""

    first: str = Field("sentence1", description="Column of the first text.")
    second: str = Field("sentence2", description="Column of the second text.")
    score: str = Field("score", description="Column of the number: how alike the two are.")


class PairFiles(_Pairs, RowFiles):
    """Pairs of texts with a score, in local files."""


class PairHub(_Pairs, RowHub):
    """Pairs of texts with a score, of a data set on the Hugging Face hub."""


class _Documents(Section):
    """Columns of texts that have a name."""

    id: str = Field("_id", description="Column of what a text is called.")
    text: str = Field("text", description="Column of the text.")
    title: str | None = Field(
        None, description="Column of a title that is put before the text, with a space; null: none."
    )


class DocumentFiles(_Documents, RowFiles):
    """Texts that have a name, in local files."""


class DocumentHub(_Documents, RowHub):
    """Texts that have a name, of a data set on the Hugging Face hub."""


class _Judgements(Section):
    """Columns of which document a query should find."""

    query: str = Field("query-id", description="Column of the query's name.")
    document: str = Field("corpus-id", description="Column of the document's name.")
    grade: str | None = Field(
        "score",
        description="Column of how relevant the document is, from 0; null: every row is relevant.",
    )


class JudgementFiles(_Judgements, RowFiles):
    """Which document a query should find, in local files."""


class JudgementHub(_Judgements, RowHub):
    """Which document a query should find, of a data set on the Hugging Face hub."""


_Texts = Annotated[
    Annotated[TextFiles, Tag("files")] | Annotated[RowHub, Tag("hub")],
    Discriminator(row_source_kind),
]
_PairSource = Annotated[
    Annotated[PairFiles, Tag("files")] | Annotated[PairHub, Tag("hub")],
    Discriminator(row_source_kind),
]
_DocumentSource = Annotated[
    Annotated[DocumentFiles, Tag("files")] | Annotated[DocumentHub, Tag("hub")],
    Discriminator(row_source_kind),
]
_JudgementSource = Annotated[
    Annotated[JudgementFiles, Tag("files")] | Annotated[JudgementHub, Tag("hub")],
    Discriminator(row_source_kind),
]
_Columns = Annotated[list[str], Field(min_length=1, max_length=3)]


class Retrieval(Section):
    """A small corpus, queries, and what each of them should find."""

    corpus: _DocumentSource = Field(description="The documents that are searched.")
    queries: _DocumentSource = Field(description="The queries.")
    relevant: _JudgementSource = Field(description="Which documents are relevant to which query.")
    query_prompt: str | None = Field(
        None,
        description="What is put before every query; null: the prompt called query in the "
        "teacher's folder, else task.prompt.",
    )
    document_prompt: str | None = Field(
        None,
        description="What is put before every document; null: the prompt called document, passage "
        "or corpus in the teacher's folder, else task.prompt.",
    )


class EmbeddingTask(BaseTask):
    """A vector for each text."""

    kind: Literal["embedding"]
    train: _Texts = Field(description="Texts to train on; they need no labels.")
    texts: Annotated[_Columns, BeforeValidator(as_list, json_schema_input_type=str | _Columns)] = (
        Field(
            ["text"],
            description="Columns of the texts of a row: one; two for pairs that belong together, "
            "such as a question and its answer; or three for triples. The texts of a row come into "
            "one group.",
        )
    )
    dev: _PairSource | None = Field(
        None, description="Pairs of texts with a score, to be measured on (STS); null: none."
    )
    retrieval: Retrieval | None = Field(None, description="Retrieval to measure; null: none.")
    score: Literal["auto", "spearman", "ndcg@10"] = Field(
        "auto",
        description="Score by which the student is chosen and compared; auto: spearman where there "
        "are dev pairs, else ndcg@10.",
    )
    pooling: Literal["auto", "mean", "cls", "max"] = Field(
        "auto",
        description="What is made of the states of a text's tokens; auto: what the teacher's "
        "sentence-transformers folder says, else the mean.",
    )
    normalize: Literal["auto"] | StrictBool = Field(
        "auto",
        description="Whether vectors have length 1; auto: what the teacher's "
        "sentence-transformers folder says, else false.",
    )
    prompt: str | None = Field(
        None,
        description="What is put before every text; null: the default prompt of the teacher's "
        "folder, if it has one.",
    )
    max_length: Annotated[Length, Field(ge=8)] | None = Field(
        None,
        description="Tokens of a text at most, special ones included; longer text is cut. null: "
        "what the teacher's folder says, else as many as the models have positions.",
    )
    group_size: Annotated[StrictInt, Field(ge=3, le=4096)] = Field(
        32,
        description="Texts of a group: loss.similarities compares how alike they are. Groups are "
        "drawn with the batch, and no micro-batch or process cuts one.",
    )

    def folders(self) -> dict[str, str]:
        """The folders or hub names that are read as a whole, by their keys below `task`."""
        sources: dict[str, RowFiles | RowHub | None] = {"train": self.train, "dev": self.dev}
        if self.retrieval is not None:
            names = ("corpus", "queries", "relevant")
            sources |= {f"retrieval.{name}": getattr(self.retrieval, name) for name in names}
        folders = {key: source.folder for key, source in sources.items() if source is not None}
        return {f"{key}.hub": folder for key, folder in folders.items() if folder is not None}

    @property
    def is_measured(self) -> bool:
        """Whether there is something to be measured on."""
        return self.dev is not None or self.retrieval is not None

    @property
    def chosen_score(self) -> str:
        """The score by which students are chosen and compared."""
        if self.score != "auto":
            return self.score
        return "ndcg@10" if self.dev is None and self.retrieval is not None else "spearman"

    @model_validator(mode="after")
    def _fits_together(self) -> "EmbeddingTask":
        if len(set(self.texts)) < len(self.texts):
            raise ValueError(f"texts names a column twice: {', '.join(self.texts)}")
        if self.group_size % len(self.texts):
            raise ValueError(
                f"group_size {self.group_size} is no multiple of the {len(self.texts)} texts of a "
                "row"
            )
        wanted = {"spearman": self.dev, "ndcg@10": self.retrieval}.get(self.score, self)
        if wanted is None:
            section = "dev" if self.score == "spearman" else "retrieval"
            raise ValueError(f"score: {self.score} is measured on task.{section}, which is null")
        return self


class EmbeddingTeacher(NamedTeacher):
    """A sentence encoder: an encoder's folder, or a sentence-transformers folder."""

    cache: OutputFolder | None = Field(
        "data/teacher-outputs",
        description="Folder where its vectors are kept, so that it runs once over the texts and "
        "not in every epoch; null: it runs in every step.",
    )


class CopiedSentenceEncoder(CopiedEncoderStudent):
    """A student whose layers are copied from a larger encoder."""

    layers: Layers = Field(
        "spread",
        description="Which source layers to copy: a strategy or a list of indices from 0. spread "
        "keeps the last one, whose states are pooled, and the first one.",
    )


EmbeddingStudent = Annotated[
    Annotated[CopiedSentenceEncoder, Tag("copied")]
    | Annotated[TaskCheckpointStudent, Tag("checkpoint")],
    Discriminator(student_kind),
]


class VectorCosineConfig(TermConfig):
    """1 - cosine of the vectors of student and teacher."""

    weight: ScheduledWeight = Field(1.0, description="Weight of the cosine distance.")


class VectorMSEConfig(TermConfig):
    """The mean over a vector of the squared difference to the teacher's."""

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the squared error (Reimers, Gurevych 2020); of vectors of length 1 "
        "it is 2 (1 - cosine) over their width.",
    )


class SimilaritiesConfig(TermConfig):
    """KL(teacher || student) of how alike a text is to each other one of its group."""

    weight: ScheduledWeight = Field(1.0, description="Weight of the similarities.")
    temperature: ScheduledTemperature = Field(
        0.2, description="Temperature of the softmax over the cosines of a text with the others."
    )
    matryoshka: list[Width] = Field(
        default_factory=list,
        description="Smaller widths at which the first numbers of the student's vectors shall be "
        "vectors of their own: similarities are compared at each, too (Kusupati et al. 2022).",
    )

    @model_validator(mode="after")
    def _widths_differ(self) -> "SimilaritiesConfig":
        if len(set(self.matryoshka)) < len(self.matryoshka):
            raise ValueError(f"matryoshka names a width twice: {self.matryoshka}")
        if self.matryoshka and not self.largest_weight:
            raise ValueError(
                f"matryoshka: {self.matryoshka}, but weight is 0, and it is this term that is "
                "compared at those widths; give it a weight, or leave matryoshka out"
            )
        return self


class EmbeddingLoss(Section):
    """The terms of training embeddings; each mean is over texts."""

    cosine: VectorCosineConfig = Field(default_factory=VectorCosineConfig)
    mse: VectorMSEConfig = Field(default_factory=VectorMSEConfig)
    similarities: SimilaritiesConfig = Field(default_factory=SimilaritiesConfig)

    @property
    def terms(self) -> dict[str, TermConfig]:
        """The section of each term, by its name."""
        return {"cosine": self.cosine, "mse": self.mse, "similarities": self.similarities}

    @property
    def weights(self) -> dict[str, float]:
        """The largest weight that each term ever has, by its name."""
        return {name: term.largest_weight for name, term in self.terms.items()}

    @property
    def temperatures(self) -> Mapping[str, float | Schedule]:
        """The temperature of each term, by its name."""
        return {"cosine": 1.0, "mse": 1.0, "similarities": self.similarities.temperature}

    @model_validator(mode="after")
    def _something_to_learn(self) -> "EmbeddingLoss":
        if not any(self.weights.values()):
            raise ValueError("every weight is 0: there is nothing to learn")
        return self


class EmbeddingTrain(TaskTrain):
    """The batch, the length of the run, and what is written on the way."""

    global_batch_size: Tokens = Field(
        256,
        description="Rows (texts, pairs or triples) in one optimiser step, over all processes and "
        "micro-batches.",
    )
    tokens_per_micro_batch: Tokens = Field(
        8192, description="Tokens in one forward and backward pass of one process, at most."
    )


class EmbeddingExperiment(BaseExperiment):
    """Everything that one run on embeddings depends on."""

    task: EmbeddingTask = Field(description="The texts, and what vectors are measured on.")
    teacher: EmbeddingTeacher = Field(description="The teacher.")
    student: EmbeddingStudent = Field(
        default_factory=CopiedSentenceEncoder, description="How the student starts, and its size."
    )
    loss: EmbeddingLoss = Field(default_factory=EmbeddingLoss)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: EmbeddingTrain = Field(default_factory=EmbeddingTrain)
    validation: TaskValidation = Field(default_factory=TaskValidation)

    def shared_folders(self) -> dict[str, str]:
        """The teacher's cached vectors, which runs have in common."""
        return {"teacher.cache": self.teacher.cache} if self.teacher.cache else {}

    def data_folders(self) -> dict[str, str]:
        """The folders or hub names of data sets, by their keys."""
        return {f"task.{key}": folder for key, folder in self.task.folders().items()}

    @property
    def rows_per_group(self) -> int:
        """Rows that are drawn as one group; 1 where no loss compares the texts of a group."""
        if not self.loss.weights["similarities"]:
            return 1
        return self.task.group_size // len(self.task.texts)

    @model_validator(mode="after")
    def _fits_together(self) -> "EmbeddingExperiment":
        rows, batch = self.rows_per_group, self.train.global_batch_size
        if batch % rows:
            texts = len(self.task.texts)
            each = "" if texts == 1 else f" of {texts} texts each"
            raise ValueError(
                f"train.global_batch_size {batch} is no multiple of the {rows} rows{each} that "
                f"make a group (task.group_size {self.task.group_size})"
            )
        longest = self.task.max_length
        if longest is not None and self.train.tokens_per_micro_batch < longest:
            raise ValueError(
                f"train.tokens_per_micro_batch {self.train.tokens_per_micro_batch} "
                f"is under task.max_length {longest}"
            )
        return self
