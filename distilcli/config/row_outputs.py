"""Settings of a teacher that is a file: its outputs, which rows bring or files hold."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distilcli.config.data import InputFiles, RowFiles
from distilcli.config.fields import Section


class RowOutputs(Section):
    """A teacher's outputs, which `distilcli predict` or someone else has written down."""

    column: str | None = Field(
        None,
        description="Column of the outputs: a list in the order of task.labels, an object by "
        "class, or a number; of tagging or of several documents a list with one such for each. "
        "null: logits, or score where the output is a number, as distilcli predict writes them.",
    )
    columns: Annotated[dict[str, str], Field(min_length=2)] | None = Field(
        None, description="A column for each class instead, by the names of the classes."
    )
    holds: Literal["logits", "probabilities", "number"] | None = Field(
        None,
        description="What the outputs are; null: a number for a task of numbers, else logits.",
    )
    files: InputFiles | None = Field(
        None,
        description="Files that hold the outputs, such as those of distilcli predict, whose rows "
        "are matched with the rows of the task; null: the task's rows bring them.",
    )
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = Field(
        "auto", description="Format of the files; auto goes by the endings of their names."
    )
    id: str | None = Field(
        None,
        description="Column, in the files and in the task's rows, by which rows are matched; null: "
        "by their texts.",
    )

    @classmethod
    def of_ids(cls, column: str) -> "RowOutputs":
        """That rows bring ids and nothing else, as `distilcli predict` reads them."""
        return cls.model_construct(id=column)  # which settings may not say

    @property
    def are_ids_alone(self) -> bool:
        """Whether rows bring ids and nothing else."""
        return self.files is None and self.id is not None

    @property
    def source(self) -> RowFiles | None:
        """The files, as rows are read; None: the task's rows bring the outputs."""
        return None if self.files is None else RowFiles(files=self.files, format=self.format)

    def columns_of(self, of_numbers: bool) -> list[str]:
        """The columns that hold the outputs."""
        if self.columns is not None:
            return list(self.columns.values())
        return [self.column or ("score" if of_numbers else "logits")]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.column is not None and self.columns is not None:
            raise ValueError("column and columns cannot be used together; leave one out")
        if self.id is not None and self.files is None:
            raise ValueError("id says how rows are matched with files, and there are no files")
        return self
