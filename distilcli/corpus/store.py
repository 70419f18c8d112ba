"""A finished token store, and the tokenizer that belongs to it.

Opening is fast: only where each sequence lies is read, and a sequence when it is wanted. The pages
of the files are in the memory that all processes share. `by_content` reads every byte.

    store = TokenStore.open(Path("data/wiki"))
    store.train.tokens(0)
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from distilcli.corpus.manifest import SPLITS, Manifest, SplitName
from distilcli.corpus.shards import shard_path
from distilcli.errors import DataError
from distilcli.files.digests import file_digest
from distilcli.files.file_values import FileValues
from distilcli.text.tokenizers import tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What reading a file runs into whose bytes say something else than those that prepare wrote.
_NOT_ARROW = (OSError, KeyError, ValueError, AttributeError, IndexError, pa.ArrowException)
_GO_ON = "Run distilcli prepare again, then go on with --resume."


class Split:
    """One split of a store, on disk, with random access.

    Attributes:
        lengths: int32 [num_sequences], tokens of each sequence, [CLS] and [SEP] included.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray | FileValues, np.ndarray]]) -> None:
        """Join `parts`: the token values of each, and its offsets (one more than sequences)."""
        self._values = [values for values, _ in parts]
        self._offsets = [offsets for _, offsets in parts]
        sizes = [len(offsets) - 1 for _, offsets in parts]
        # A list and bisect: for one index this is several times faster than numpy's searchsorted.
        self._starts: list[int] = np.cumsum([0, *sizes]).tolist()
        lengths = [np.diff(offsets).astype(np.int32, copy=False) for _, offsets in parts]
        self.lengths: np.ndarray = np.concatenate(lengths or [np.zeros(0, np.int32)])

    def __len__(self) -> int:
        return self._starts[-1]

    def tokens(self, index: int) -> np.ndarray:
        """Sequence `index`, int32 [length], from [CLS] to [SEP]; read-only.

        Raises:
            IndexError: there is no such sequence.
            DataLostError: its file was whole when the store was opened, and is not any more.
        """
        if not 0 <= index < self._starts[-1]:
            raise IndexError(f"sequence {index} of {self._starts[-1]}")
        part = bisect_right(self._starts, index) - 1
        offsets = self._offsets[part]
        row = index - self._starts[part]
        return self._values[part][offsets[row] : offsets[row + 1]]


class TokenStore:
    """A finished token store.

    Attributes:
        manifest: what it holds and how it was made.
        train: sequences to train on.
        held_out: sequences kept out of training.
        token_counts: int64 [vocab_size], occurrences in the train split.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.train = _open_split(folder, "train", manifest)
        self.held_out = _open_split(folder, "held_out", manifest)
        self.token_counts: np.ndarray = np.array(manifest.token_counts, dtype=np.int64)

    @classmethod
    def open(cls, folder: Path, *, by_content: bool = False) -> "TokenStore":
        """Open the finished store in `folder`.

        Args:
            folder: of the store.
            by_content: first read every file and compare its digest, then look at all token ids;
                once per run is enough. Reads from memory at 4 GB/s all in all, else at the speed of
                the disk.

        Raises:
            DataError: there is none, it is unfinished, or one of its files is damaged.
        """
        manifest = read_manifest(folder)
        if by_content:  # first: whatever the bytes may say, nothing is made of them yet
            _check_digests(folder, manifest)
        store = cls(folder, manifest)
        if by_content:
            _check_ids(folder, manifest)
        return store

    @property
    def has_digests(self) -> bool:
        """Whether it can be told that a byte was changed; older stores cannot."""
        return self.manifest.digests is not None

    def check_tokenizer(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        """Make sure that the store was made with `tokenizer`.

        Raises:
            DataError: it was made with another one.
        """
        if tokenizer_fingerprint(tokenizer) != self.manifest.tokenizer_fingerprint:
            raise DataError(
                f"{self.folder}: made with another tokenizer, that of "
                f"{self.manifest.tokenizer_model}, not that of {tokenizer.name_or_path}",
                "Name another folder as data.store and prepare it with this tokenizer.",
            )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        DataError: there is no store, it is unfinished, or its manifest is damaged.
    """
    prepare_it = "Run distilcli prepare with the experiment's --config."
    if not folder.is_dir():
        raise DataError(f"{folder}: no token store here", prepare_it)
    if not (folder / "manifest.json").is_file():
        if (folder / "settings.json").is_file():
            raise DataError(f"{folder}: an unfinished token store", prepare_it + " It will go on.")
        raise DataError(f"{folder}: not a token store (no manifest.json)", prepare_it)
    path = folder / "manifest.json"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(path, "not readable") from error
    if not manifest.is_as_written:
        raise _damaged(path, "edited, or a byte was changed: its digest differs")
    return manifest


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: damaged ({what})", "Run distilcli prepare again: it makes anew what is not whole."
    )


def _open_split(folder: Path, name: SplitName, manifest: Manifest) -> Split:
    parts = []
    for index, (sequences, tokens, num_bytes) in enumerate(manifest.shards[name]):
        if sequences:
            path = shard_path(folder, name, index)
            parts.extend(_map_arrow(path, num_bytes, (sequences, tokens)))
    return Split(parts)


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every Arrow file is there in its full size."""
    for name in SPLITS:
        for index, (sequences, _, num_bytes) in enumerate(manifest.shards[name]):
            path = shard_path(folder, name, index)
            if sequences and not (path.is_file() and path.stat().st_size == num_bytes):
                return False
    return True


def _map_arrow(
    path: Path, num_bytes: int, expected: tuple[int, int]
) -> list[tuple[FileValues, np.ndarray]]:
    """The (values, offsets) of each record batch; `expected`: sequences and tokens of the file.

    Offsets are copied, since training asks for them all the time; values stay in the file.
    """
    try:
        size = path.stat().st_size
        if size != num_bytes:
            raise _damaged(path, f"{size} bytes instead of {num_bytes}")
        parts = [
            (
                FileValues(path, num_bytes, place, len(values), np.int32, (), _GO_ON),
                np.array(offsets, dtype=np.int32),
            )
            for place, values, offsets in _columns(path)
        ]
    except _NOT_ARROW as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    found = (sum(len(o) - 1 for _, o in parts), sum(len(values) for values, _ in parts))
    ordered = all((np.diff(offsets) > 0).all() for _, offsets in parts)
    if found != expected or not ordered:
        raise _damaged(path, f"{found} sequences and tokens instead of {expected}")
    return parts


def _columns(path: Path) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Of each record batch: where in the file the values begin, the values, and the offsets.

    Views of the file, mapped: use them at once, before something may happen to it.
    """
    with pa.memory_map(str(path)) as file:
        start = file.read_buffer(1).address
        file.seek(0)
        column = pa.ipc.open_stream(file).read_all().column("input_ids")
    columns = []
    for chunk in column.chunks:
        chunk.validate(full=True)  # else a changed byte in the layout can end the process
        if chunk.offset or chunk.null_count or chunk.values.offset or chunk.values.null_count:
            raise ValueError("not laid out as prepare writes it")
        values, offsets = _view(chunk.values), _view(chunk.offsets)
        columns.append((chunk.values.buffers()[1].address - start, values, offsets))
    return columns


def _view(array: Any) -> np.ndarray:
    """The numbers of an Arrow array, not copied.

    Without `to_numpy`, which imports pandas: that takes longer than to open any store.
    """
    dtype = np.dtype(array.type.to_pandas_dtype())
    start = array.offset * dtype.itemsize
    return np.frombuffer(array.buffers()[1] or b"", dtype=dtype, count=len(array), offset=start)


def _files(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, str | None]]:
    """Every Arrow file of a store, and its digest if the store is of a time that had them."""
    for name in SPLITS:
        digests = (manifest.digests or {}).get(name)
        for index, (sequences, _, _) in enumerate(manifest.shards[name]):
            if sequences:
                yield shard_path(folder, name, index), digests[index] if digests else None


def _check_digests(folder: Path, manifest: Manifest) -> None:
    """Refuse a store of which a byte has changed; DataError."""
    for path, digest in _files(folder, manifest):
        try:
            if digest is not None and file_digest(path) != digest:
                raise _damaged(path, "its content has changed since it was written")
        except OSError as error:
            raise _damaged(path, str(error)) from error


def _check_ids(folder: Path, manifest: Manifest) -> None:
    """Refuse token ids that have no place in the vocabulary; DataError."""
    for path, _ in _files(folder, manifest):
        try:
            extremes = [(int(ids.min()), int(ids.max())) for _, ids, _ in _columns(path)]
        except _NOT_ARROW as error:
            raise _damaged(path, str(error).partition("\n")[0]) from error
        bad = [one for pair in extremes for one in pair if not 0 <= one < manifest.vocab_size]
        if bad:
            raise _damaged(path, f"token id {bad[0]} in a vocabulary of {manifest.vocab_size}")
