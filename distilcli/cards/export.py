"""The card of an export: that of the student, with the files of the export and how they are run."""

from distilcli.cards.card import Card
from distilcli.cards.facts import Facts
from distilcli.cards.measured import markdown_table
from distilcli.cards.student import body_of, metadata_of
from distilcli.evaluation.result import Table

# With tokenizers and onnxruntime alone, which is what an export is there for.
_CODE = """```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("{file}")
encoded = tokenizer.encode("A text.")
inputs = {{"input_ids": encoded.ids, "attention_mask": encoded.attention_mask}}
inputs["token_type_ids"] = encoded.type_ids
names = [one.name for one in session.get_inputs()]
print(session.run(None, {{name: np.array([inputs[name]]) for name in names}}))
```"""


def card_of_export(
    facts: Facts,
    table: Table,
    onnx_files: tuple[str, ...],
    *,
    is_quantized: bool,
    student: str | None = None,
) -> Card:
    """The card of a folder that a student was exported to.

    Args:
        facts: of the student, from `facts_of_folder` or `facts_of_run`.
        table: what was measured of each file of the export.
        onnx_files: that are in the folder, such as onnx/model.onnx; the one to use first.
        is_quantized: whether one of its files has weights of 8 bits.
        student: the hub's name of the student that was exported; None: it is a folder.
    """
    metadata = metadata_of(facts)
    if onnx_files:
        metadata["library_name"] = "transformers.js"  # which reads this layout
        metadata["tags"] = [*metadata["tags"], "onnx"]
    if student is not None:
        metadata["base_model"] = [student]
    if student is not None and is_quantized:
        metadata["base_model_relation"] = "quantized"
    exported = markdown_table(table.columns, table.rows)
    code = _CODE.format(file=onnx_files[0]) if onnx_files else None
    parts = ["## What is in it", f"{table.title}:", exported]
    return Card(metadata, body_of(facts, code=code, before_use=parts))
