"""One shard of a token store: texts are tokenised, cut into sequences and written.

This is what the worker processes of `prepare` run. It imports neither torch nor transformers, so
that a worker starts fast.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from distilcli.corpus.arrow_files import write_columns
from distilcli.corpus.manifest import (
    SPLITS,
    Dropped,
    PairCounts,
    ShardRecord,
    SplitCounts,
    SplitName,
)
from distilcli.corpus.recipe import Recipe
from distilcli.corpus.sequences import NUM_SPECIALS, Sequencer, Sequences
from distilcli.files.atomic import replacing, write_atomically
from distilcli.files.digests import file_digest

# Of an Arrow file, by name: the values of each column, and the lengths of its rows.
Columns = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Shard:
    """Consecutive documents; `split` is None where the hash of each decides."""

    index: int
    texts: Sequence[str]
    split: SplitName | None
    digest: str
    bytes_read: int


def cut_texts(
    documents: Iterable[str], shard_bytes: int, seed: bytes
) -> Iterator[tuple[list[str], str]]:
    """Texts of each shard and their digest; a shard ends with the document that fills it."""
    texts: list[str] = []
    size, digest = 0, blake2b(seed, digest_size=16)
    for document in documents:
        text, encoded = _encodable(document)
        # With its length before each text, no two lists of texts are alike.
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
        texts.append(text)
        size += len(encoded)
        if size >= shard_bytes:
            yield texts, digest.hexdigest()
            texts, size, digest = [], 0, blake2b(seed, digest_size=16)
    if texts:
        yield texts, digest.hexdigest()


def _encodable(text: str) -> tuple[str, bytes]:
    """The text and its UTF-8; half a surrogate pair, which JSON lets pass, becomes `?`."""
    try:
        return text, text.encode("utf-8")
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", errors="replace")
        return encoded.decode("utf-8"), encoded


def shard_path(folder: Path, split: SplitName, index: int) -> Path:
    """The Arrow file of shard `index`; there is none when the split got no sequence from it."""
    return folder / split / f"shard-{index:05d}.arrow"


def record_path(folder: Path, index: int) -> Path:
    """The JSON file that says shard `index` is done."""
    return folder / "shards" / f"shard-{index:05d}.json"


def read_record(folder: Path, index: int, *, by_content: bool = True) -> ShardRecord | None:
    """The record of shard `index`, or None if it, or a file it speaks of, is not whole.

    Args:
        folder: of the store.
        index: of the shard.
        by_content: read the files and compare their digests (`digests.py` has the speed); a record
            from before there were digests counts as not whole, and its shard is made anew. Else
            their sizes are compared.
    """
    try:
        record = ShardRecord.model_validate_json(record_path(folder, index).read_bytes())
    except (OSError, ValidationError):
        return None
    if not record.is_as_written:
        return None
    whole = (_is_whole(folder, name, index, record, by_content) for name in SPLITS)
    return record if all(whole) else None


def _is_whole(
    folder: Path, name: SplitName, index: int, record: ShardRecord, by_content: bool
) -> bool:
    counts = record.split(name)
    if not counts.sequences:
        return True
    path = shard_path(folder, name, index)
    try:
        if path.stat().st_size != counts.bytes:
            return False
        return not by_content or file_digest(path) == counts.digest
    except OSError:
        return False


class ShardWriter:
    """Turns shards into files of the store in `folder`. One lives in each process at work."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder = folder
        self._sequencer = Sequencer(recipe)

    def write(self, shard: Shard) -> ShardRecord:
        """Tokenise `shard` and write its Arrow files, then its record.

        Raises:
            OSError: the store cannot be written.
        """
        record = self._record(shard, self._sequencer(shard.texts, shard.split))
        path = record_path(self._folder, shard.index)
        write_atomically(path, record.to_json())
        return record

    def _record(self, shard: Shard, sequences: dict[SplitName, Sequences]) -> ShardRecord:
        columns = {name: _columns(made) for name, made in sequences.items() if made.lengths}
        counts = {
            name: self._write_split(shard.index, name, sequences[name], columns.get(name))
            for name in SPLITS
        }
        train = np.frombuffer(sequences["train"].values, dtype=np.int32)
        token_counts = np.bincount(train) if train.size else np.zeros(0, np.int64)
        token_ids = np.flatnonzero(token_counts)
        is_paired = sequences["train"].teacher is not None
        return ShardRecord(
            digest=shard.digest,
            train=counts["train"],
            held_out=counts["held_out"],
            dropped=_dropped(list(sequences.values())),
            length_histogram={
                name: dict(sorted(Counter(sequences[name].lengths).items())) for name in SPLITS
            },
            token_ids=token_ids.tolist(),
            token_counts=token_counts[token_ids].tolist(),
            teacher={name: _pair_counts(columns[name]) for name in columns} if is_paired else None,
        ).sealed()

    def _write_split(
        self, index: int, name: SplitName, sequences: Sequences, columns: Columns | None
    ) -> SplitCounts:
        size, digest = 0, None
        if columns is not None:
            path = shard_path(self._folder, name, index)
            with replacing(path) as new:
                write_columns(new, columns)
                size, digest = new.stat().st_size, file_digest(new)
        return SplitCounts(
            documents=sequences.num_documents,
            sequences=len(sequences.lengths),
            tokens=len(sequences.values),
            bytes=size,
            digest=digest,
        )


def _dropped(sequences: list[Sequences]) -> dict[str, Dropped]:
    return {
        "empty_document": Dropped(count=sum(part.num_empty for part in sequences)),
        "short_remainder": Dropped(
            count=sum(part.num_remainders for part in sequences),
            tokens=sum(part.num_remainder_tokens for part in sequences),
        ),
    }


def _columns(sequences: Sequences) -> Columns:
    """What an Arrow file keeps of the sequences of one split."""
    lengths = np.frombuffer(sequences.lengths, dtype=np.int32)
    columns = {"input_ids": (np.frombuffer(sequences.values, dtype=np.int32), lengths)}
    if sequences.teacher is not None:
        teacher = sequences.teacher_columns()
        columns["teacher_ids"] = (teacher.ids, teacher.lengths)
        columns["teacher_places"] = (teacher.places, lengths)
    return columns


def _pair_counts(columns: Columns) -> PairCounts:
    places, lengths = columns["teacher_places"]
    specials = NUM_SPECIALS * len(lengths)  # which agree always
    return PairCounts(
        tokens=len(columns["teacher_ids"][0]),
        text_tokens=len(places) - specials,
        agreed=int(np.count_nonzero(places >= 0)) - specials,
    )
