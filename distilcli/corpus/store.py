"""A finished token store, and the tokenizer that belongs to it.

Opening is fast: only where each sequence lies is read, and a sequence when it is wanted. The pages
of the files are in the memory that all processes share. `by_content` reads every byte.

    store = TokenStore.open(Path("data/wiki"))
    store.train.tokens(0)
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from distilcli.corpus.arrow_files import NOT_ARROW, read_column
from distilcli.corpus.manifest import SPLITS, Manifest, SplitName
from distilcli.corpus.shards import shard_path
from distilcli.errors import DataError
from distilcli.files.digests import file_digest
from distilcli.files.file_values import FileValues
from distilcli.text.tokenizers import tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_GO_ON = "Run distilcli prepare again, then go on with --resume."


class Split:
    """One split of a store, on disk, with random access.

    Attributes:
        lengths: int32 [num_sequences], tokens of each sequence, [CLS] and [SEP] included.
    """

    def __init__(
        self,
        parts: Sequence[tuple[np.ndarray | FileValues, np.ndarray]],
        teacher: "tuple[Split, Split] | None" = None,
    ) -> None:
        """Join parts.

        Args:
            parts: the token values of each, and its offsets (one more than sequences).
            teacher: of a paired store, its ids and places, each as if they were tokens.
        """
        self._values = [values for values, _ in parts]
        self._offsets = [offsets for _, offsets in parts]
        sizes = [len(offsets) - 1 for _, offsets in parts]
        # A list and bisect: for one index this is several times faster than numpy's searchsorted.
        self._starts: list[int] = np.cumsum([0, *sizes]).tolist()
        lengths = [np.diff(offsets).astype(np.int32, copy=False) for _, offsets in parts]
        self.lengths: np.ndarray = np.concatenate(lengths or [np.zeros(0, np.int32)])
        self._teacher = teacher

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

    def teacher(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What the teacher has for sequence `index`; read-only, and only of a paired store.

        Returns:
            Its tokens, int32 [teacher's length], from [CLS] to [SEP]; and the place of each of the
            student's among them, int32 [length]: j where it is the teacher's token j, the same
            piece of the same text, else -(j + 1), where it begins in the teacher's token j. So -1
            is of one that begins in none of these tokens.

        Raises:
            IndexError, DataLostError: see `tokens`.
        """
        assert self._teacher is not None
        ids, places = self._teacher
        return ids.tokens(index), places.tokens(index)


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

    @property
    def is_paired(self) -> bool:
        """Whether the teacher's tokens are in it, beside those of a student."""
        return self.manifest.teacher is not None

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

    def check_teacher_tokenizer(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        """Make sure that the teacher's tokens in this paired store are those of `tokenizer`.

        Raises:
            DataError: they are of another one, or there are none.
        """
        teacher = self.manifest.teacher
        if teacher is None:
            raise DataError(
                f"{self.folder}: has no tokens of a teacher, which this student needs: it has a "
                "vocabulary of its own",
                "Name another folder as data.store and prepare it for teacher and student.",
            )
        if tokenizer_fingerprint(tokenizer) != teacher.tokenizer_fingerprint:
            raise DataError(
                f"{self.folder}: made for another teacher's tokenizer, that of "
                f"{teacher.tokenizer_model}, not that of {tokenizer.name_or_path}",
                "Name another folder as data.store and prepare it with this teacher.",
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
    shards = manifest.shards[name]
    own = _open_column(folder, name, "input_ids", shards)
    if manifest.teacher is None:
        return Split(own)
    counts = zip(shards, manifest.teacher.shards[name], strict=True)
    of_teacher = [(sequences, tokens, num_bytes) for (sequences, _, num_bytes), tokens in counts]
    return Split(
        own,
        (
            Split(_open_column(folder, name, "teacher_ids", of_teacher)),
            Split(_open_column(folder, name, "teacher_places", shards)),
        ),
    )


def _open_column(
    folder: Path, name: SplitName, column: str, shards: Sequence[tuple[int, int, int]]
) -> list[tuple[FileValues, np.ndarray]]:
    """One column of every shard; `shards`: sequences, values of this column, bytes of the file."""
    parts = []
    for index, (sequences, tokens, num_bytes) in enumerate(shards):
        if sequences:
            path = shard_path(folder, name, index)
            parts.extend(_map_arrow(path, column, num_bytes, (sequences, tokens)))
    return parts


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every Arrow file is there in its full size."""
    for name in SPLITS:
        for index, (sequences, _, num_bytes) in enumerate(manifest.shards[name]):
            path = shard_path(folder, name, index)
            if sequences and not (path.is_file() and path.stat().st_size == num_bytes):
                return False
    return True


def _map_arrow(
    path: Path, column: str, num_bytes: int, expected: tuple[int, int]
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
            for place, values, offsets in read_column(path, column)
        ]
    except NOT_ARROW as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    found = (sum(len(o) - 1 for _, o in parts), sum(len(values) for values, _ in parts))
    ordered = all((np.diff(offsets) > 0).all() for _, offsets in parts)
    if found != expected or not ordered:
        raise _damaged(path, f"{found} sequences and tokens instead of {expected}")
    return parts


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
    """Refuse token ids that have no place in the vocabulary, and places of no token; DataError."""
    sizes = {"input_ids": manifest.vocab_size}
    if manifest.teacher is not None:
        sizes["teacher_ids"] = manifest.teacher.vocab_size
    for path, _ in _files(folder, manifest):
        try:
            for column, vocab_size in sizes.items():
                _check_range(path, column, vocab_size)
            if manifest.teacher is not None:
                _check_places(path)
        except NOT_ARROW as error:
            raise _damaged(path, str(error).partition("\n")[0]) from error


def _check_range(path: Path, column: str, vocab_size: int) -> None:
    values = [batch.values for batch in read_column(path, column)]
    extremes = [(int(ids.min()), int(ids.max())) for ids in values]
    bad = [one for pair in extremes for one in pair if not 0 <= one < vocab_size]
    if bad:
        raise _damaged(path, f"token id {bad[0]} in a vocabulary of {vocab_size}")


def _check_places(path: Path) -> None:
    """Refuse places that are not among the teacher's tokens of the same sequence."""
    columns = (read_column(path, name) for name in ("input_ids", "teacher_ids", "teacher_places"))
    for own, teacher, places in zip(*columns, strict=True):
        if not np.array_equal(own.offsets, places.offsets):
            raise _damaged(path, "not a place for every token")
        most = np.repeat(np.diff(teacher.offsets), np.diff(own.offsets))
        bad = places.values[(places.values >= most) | (places.values < -most)]
        if len(bad):
            raise _damaged(path, f"place {bad[0]} outside of the teacher's tokens")
