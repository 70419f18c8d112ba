"""The Arrow files of a token store: rows of tokens, in one or several columns."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

# What reading a file runs into whose bytes say something else than those that prepare wrote.
NOT_ARROW = (OSError, KeyError, ValueError, AttributeError, IndexError, pa.ArrowException)


class Batch(NamedTuple):
    """One column of a record batch: where in the file its values begin, these, and offsets.

    Views of the file, mapped: use them at once, before something may happen to it.
    """

    place: int
    values: np.ndarray
    offsets: np.ndarray


def write_columns(path: Path, columns: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write rows of int32.

    Args:
        path: of the new file.
        columns: of each, the values of all rows one after the other, and the lengths of rows.

    Raises:
        OSError: it cannot be written.
    """
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    arrays = {}
    for name, (values, lengths) in columns.items():
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        arrays[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    table = pa.table(arrays)
    features = Features({name: List(Value("int32")) for name in columns})
    with ArrowWriter(features=features, path=str(path)) as writer:
        # One record batch, so that a reader maps one array of values and one of offsets.
        writer.write_table(table, writer_batch_size=table.num_rows)
        writer.finalize()


def read_column(path: Path, name: str) -> list[Batch]:
    """One column of a file, by record batches.

    Raises:
        NOT_ARROW: it is not laid out as `write_columns` does.
    """
    with pa.memory_map(str(path)) as file:
        start = file.read_buffer(1).address
        file.seek(0)
        column = pa.ipc.open_stream(file).read_all().column(name)
    batches = []
    for chunk in column.chunks:
        chunk.validate(full=True)  # else a changed byte in the layout can end the process
        if chunk.offset or chunk.null_count or chunk.values.offset or chunk.values.null_count:
            raise ValueError("not laid out as prepare writes it")
        values, offsets = _view(chunk.values), _view(chunk.offsets)
        batches.append(Batch(chunk.values.buffers()[1].address - start, values, offsets))
    return batches


def _view(array: Any) -> np.ndarray:
    """The numbers of an Arrow array, not copied.

    Without `to_numpy`, which imports pandas: that takes longer than to open any store.
    """
    dtype = np.dtype(array.type.to_pandas_dtype())
    start = array.offset * dtype.itemsize
    return np.frombuffer(array.buffers()[1] or b"", dtype=dtype, count=len(array), offset=start)
