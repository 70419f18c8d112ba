"""Settings of the data: files and data sets, the token store, masking."""

from fractions import Fraction as FractionOf
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, Tag, model_validator

from distilcli.config.fields import (
    Fraction,
    InputPath,
    Length,
    Number,
    OutputFolder,
    PositiveInt,
    Section,
)


def as_list(value: Any) -> Any:
    """One name as a list of one."""
    return [value] if isinstance(value, str) else value


_Files = Annotated[list[InputPath], Field(min_length=1)]
# The second is what the JSON schema says of it.
InputFiles = Annotated[_Files, BeforeValidator(as_list, json_schema_input_type=InputPath | _Files)]


class FilesSource(Section):
    """Documents in local files; `.gz` is opened by itself."""

    files: InputFiles = Field(description="Paths or globs, in order.")
    format: Literal["auto", "text", "jsonl", "csv", "tsv", "parquet"] = Field(
        "auto", description="Format of the files; auto goes by the endings of their names."
    )
    documents: Literal["file", "line", "blank-line"] | None = Field(
        None, description="What one document of a text file is; text files need it."
    )
    text_column: str = Field(
        "text", description="Column that holds the text, in JSONL, CSV, TSV and Parquet."
    )


class HubSource(Section):
    """Documents of a data set on the Hugging Face hub, streamed."""

    hub: InputPath = Field(description="Data set name, such as wikimedia/wikipedia.")
    subset: str | None = Field(
        None, description="Configuration of the data set, such as 20231101.en."
    )
    split: str = Field("train", description="Split to read.")
    revision: str | None = Field(None, description="Commit, tag or branch.")
    text_column: str = Field("text", description="Column that holds the text.")


def _source_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "hub" if "hub" in value else "files"
    return "hub" if isinstance(value, HubSource) else "files"


Source = Annotated[
    Annotated[FilesSource, Tag("files")] | Annotated[HubSource, Tag("hub")],
    Discriminator(_source_kind),
]


class DataConfig(Section):
    """Where the text comes from and the token store it becomes."""

    sources: Annotated[list[Source], Field(min_length=1)] = Field(
        description="Where documents come from, in the order in which they are read."
    )
    store: OutputFolder = Field(description="Folder of the token store.")
    max_length: Annotated[Length, Field(ge=8)] = Field(
        128, description="Tokens in a sequence at most, [CLS] and [SEP] included."
    )
    min_length: Annotated[Length, Field(ge=3)] = Field(
        8,
        description="Sequences of fewer tokens, [CLS] and [SEP] included, are dropped and counted.",
    )
    held_out_fraction: Annotated[Number, Field(ge=0.0, lt=1.0)] = Field(
        0.01, description="Share of documents kept out of training, chosen by a hash of their text."
    )
    held_out_sources: list[Source] | None = Field(
        None, description="Held-out documents from sources of their own, instead of a share."
    )
    shard_mib: Annotated[PositiveInt, Field(le=2**16)] = Field(
        8, description="MiB of text that one shard is made of."
    )

    def folders(self) -> dict[str, str]:
        """The folders or hub names that are read as a whole, by their keys below `data`."""
        keyed = {"sources": self.sources, "held_out_sources": self.held_out_sources or []}
        return {
            f"{key}.{index}.hub": source.hub
            for key, sources in keyed.items()
            for index, source in enumerate(sources)
            if isinstance(source, HubSource)
        }

    @model_validator(mode="after")
    def _lengths_fit(self) -> "DataConfig":
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is over max_length {self.max_length}")
        return self


class MaskingConfig(Section):
    """Dynamic masking (Devlin et al. 2019, sec. 3.1; Liu et al. 2019, sec. 4.1)."""

    mlm_probability: Annotated[Number, Field(ge=0.0, lt=1.0)] = Field(
        0.15,
        description="Share of a sequence's ordinary tokens that are chosen, to be predicted; 0, "
        "text as it is, only where no term looks at logits.",
    )
    mask_share: Fraction = Field(
        0.8, description="Share of the chosen tokens that are replaced by [MASK]."
    )
    random_share: Fraction = Field(
        0.1,
        description="Share of the chosen tokens that are replaced by a random token; the rest "
        "stay as they are.",
    )
    smoothing: Annotated[Number, Field(ge=0.0, le=2.0)] = Field(
        0.0,
        description="Tokens are chosen with a weight of count^-smoothing, so that rare ones are "
        "chosen more often; 0 gives all the same weight. The DistilBERT release used 0.7.",
    )
    whole_words: StrictBool = Field(
        False,
        description="Choose words, with all of their tokens, instead of tokens: about "
        "mlm_probability of the tokens, at least one word. A word has the weight of its rarest "
        "token. Held-out text is masked by tokens all the same.",
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "MaskingConfig":
        if self.mask_share + self.random_share > 1.0:
            raise ValueError("mask_share + random_share is over 1")
        return self


class RowFiles(Section):
    """Examples in local files, a row each; `.gz` is opened by itself."""

    files: InputFiles = Field(description="Paths or globs, in order.")
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "squad", "conll"] = Field(
        "auto",
        description="Format of the files; auto goes by the endings of their names: for question "
        "answering .json is squad, for tagging .tsv and .txt are conll.",
    )
    columns: list[str] | None = Field(
        None, description="Names of the columns of a CSV, TSV or CoNLL file without a header row."
    )

    @property
    def place(self) -> str:
        """Where the rows come from, for people."""
        return ", ".join(self.files)

    @property
    def folder(self) -> str | None:
        """A folder or hub name that is read as a whole, if there is one."""
        return None


class RowHub(Section):
    """Examples of a data set on the Hugging Face hub, or a folder that `datasets` can load."""

    hub: InputPath = Field(description="Data set name, such as nyu-mll/glue.")
    subset: str | None = Field(None, description="Configuration of the data set, such as cola.")
    split: str = Field(description="Split to read, such as train or validation.")
    revision: str | None = Field(None, description="Commit, tag or branch.")

    @property
    def place(self) -> str:
        """Where the rows come from, for people."""
        return f"{self.hub}, {self.split}"

    @property
    def folder(self) -> str | None:
        """The folder or hub name that is read as a whole."""
        return self.hub


# How often rows are drawn must be a ratio of small numbers: an epoch holds whole rows.
_LARGEST_PART = 20
TransferFormat = Literal["auto", "text", "csv", "tsv", "jsonl", "parquet", "squad", "conll"]
TransferWeight = Annotated[Number, Field(ge=1 / _LARGEST_PART, le=100.0)]
_WEIGHT = Field(
    1.0,
    description="How often an epoch draws each of these rows, for each time that it draws a row of "
    "task.train: 2 is twice; at 0.5 it draws those of task.train twice and these once. It is taken "
    "as the nearest fraction whose lower part is 20 or less.",
)


class Transfer(Section):
    """What rows that only a teacher labels have, wherever they are."""

    weight: TransferWeight = _WEIGHT

    @property
    def draws(self) -> tuple[int, int]:
        """How often an epoch draws each of these rows, and each row of `task.train`."""
        fraction = FractionOf(self.weight).limit_denominator(_LARGEST_PART)
        return fraction.numerator, fraction.denominator


class TransferFiles(Transfer, RowFiles):
    """Rows without labels in local files; `.gz` is opened by itself."""

    format: TransferFormat = Field(  # type: ignore[assignment]
        "auto",
        description="Format of the files; text has a text a line, for tagging a sentence whose "
        "words stand between blanks. auto goes by the endings of their names: .txt is text, for "
        "question answering .json is squad, for tagging .tsv is conll.",
    )


class TransferHub(Transfer, RowHub):
    """Rows without labels of a data set on the hub, or of a folder that `datasets` can load."""


def row_source_kind(value: Any) -> str:
    """The tag of a source of rows: `hub` or `files`."""
    if isinstance(value, dict):
        return "hub" if "hub" in value else "files"
    return "hub" if isinstance(value, RowHub) else "files"


RowSource = Annotated[
    Annotated[RowFiles, Tag("files")] | Annotated[RowHub, Tag("hub")],
    Discriminator(row_source_kind),
]
TransferSource = Annotated[
    Annotated[TransferFiles, Tag("files")] | Annotated[TransferHub, Tag("hub")],
    Discriminator(row_source_kind),
]
