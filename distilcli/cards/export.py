"""The card of an export: that of the student, with the files of the export and how they are run."""

from collections.abc import Sequence
from dataclasses import dataclass

from distilcli.cards.card import HERE, Card
from distilcli.cards.export_use import Texts, javascript_code, python_code
from distilcli.cards.facts import Facts
from distilcli.cards.measured import markdown_table
from distilcli.cards.student import body_of, metadata_of
from distilcli.cards.usage import code_of
from distilcli.evaluation.result import Table

TRANSFORMERS_JS, ONNX = "transformers.js", "onnx"
_HALF_CODE = "`model.safetensors` is in {half}, and transformers loads it as it is:"
_PYTHON = "With onnxruntime, tokenizers and numpy, in a copy of this folder:"
_JAVASCRIPT = "With transformers.js (`npm install @huggingface/transformers`):"


@dataclass(frozen=True)
class Files:
    """What is in the folder of an export.

    Attributes:
        onnx: the graph in fp32, such as onnx/model.onnx; None: there is none.
        int8: the graph in int8, likewise.
        half: fp16 or bf16, if there are weights for transformers in it.
    """

    onnx: str | None = None
    int8: str | None = None
    half: str | None = None

    @property
    def graph(self) -> str | None:
        """The one to run first: the smallest."""
        return self.int8 or self.onnx


def card_of_export(
    facts: Facts,
    table: Table,
    notes: Sequence[str],
    files: Files,
    texts: Texts,
    student: str | None = None,
) -> Card:
    """The card of a folder that a student was exported to.

    Args:
        facts: of the student, from `facts_of_folder` or `facts_of_run`.
        table: what was measured of each file of the export.
        notes: sentences that explain the table.
        files: that are in the folder.
        texts: how texts are shown to the model.
        student: the hub's name of the student that was exported; None: it is a folder.
    """
    metadata = metadata_of(facts)
    if files.graph is not None:
        # By its library the hub chooses the code that it shows, by its tags where it is found.
        library = TRANSFORMERS_JS if facts.known_in_javascript else ONNX
        metadata["tags"] = [*metadata["tags"], *dict.fromkeys((ONNX, library))]
        if files.half is None:
            metadata["library_name"] = library
    if student is not None:
        metadata["base_model"] = [student]
    if student is not None and files.int8 is not None:
        metadata["base_model_relation"] = "quantized"
    title = f"{table.title[0].upper()}{table.title[1:]}"
    parts = ["## What is in it", f"{title}:", markdown_table(table.columns, table.rows), *notes]
    return Card(metadata, body_of(facts, code=_code(facts, files, texts), before_use=parts))


def _code(facts: Facts, files: Files, texts: Texts) -> str:
    """All ways to run what is there."""
    parts = []
    if files.graph is not None:
        dtype = "q8" if files.int8 is not None else "fp32"
        python = python_code(facts.use, files.graph, texts)
        has_pipeline = facts.known_in_javascript
        javascript = javascript_code(facts.use, HERE, dtype, texts, has_pipeline)
        parts += [_PYTHON, f"```python\n{python}\n```"]
        parts += [_JAVASCRIPT, f"```js\n{javascript}\n```"]
    if files.half is not None:
        parts += [_HALF_CODE.format(half=files.half)]
        parts += [f"```python\n{code_of(facts.use, HERE)}\n```"]
    return "\n\n".join(parts)
