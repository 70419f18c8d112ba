"""One shard of a token store: texts are tokenised, cut into sequences and written.

This is what the worker processes of `prepare` run. It imports neither torch nor transformers, so
that a worker starts fast, and everything it needs to know is in a picklable `Recipe`.
"""

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Encoding, Tokenizer

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")

SEGMENT_CHARS = 1 << 14  # long documents are tokenised in pieces of about this size
BATCH_CHARS = 1 << 20  # text tokenised by one call; bounds the memory that encodings take
NUM_SPECIALS = 2  # [CLS] and [SEP]

# With these a token never spans whitespace, so tokenising line by line changes nothing.
SPLITS_AT_WHITESPACE = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")


class Record(BaseModel):
    """Base of what a store keeps in JSON: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitCounts(Record):
    """What one split holds; `tokens` includes [CLS] and [SEP], `bytes` is the Arrow file's size."""

    documents: int = 0
    sequences: int = 0
    tokens: int = 0
    bytes: int = 0


class Dropped(Record):
    """Text that is in no sequence: how many documents or remainders, and their tokens."""

    count: int = 0
    tokens: int = 0


class ShardRecord(Record):
    """What became of one shard; `token_ids` and `token_counts` are of its train split."""

    digest: str
    train: SplitCounts
    held_out: SplitCounts
    dropped: dict[str, Dropped]
    length_histogram: dict[SplitName, dict[int, int]]
    token_ids: list[int]
    token_counts: list[int]

    def split(self, name: SplitName) -> SplitCounts:
        """The counts of the split called `name`."""
        return self.train if name == "train" else self.held_out


@dataclass(frozen=True)
class Recipe:
    """How texts become sequences, and where these are written.

    Attributes:
        folder: the store.
        backend: the fast tokenizer as JSON, without truncation and padding.
        continuations: ids of tokens that go on with a word; None when the vocabulary does not tell.
        held_out_fraction: share of documents that the hash of their text keeps out of training.
    """

    folder: Path
    backend: str
    cls_token_id: int
    sep_token_id: int
    continuations: frozenset[int] | None
    splits_at_whitespace: bool
    max_length: int
    min_length: int
    held_out_fraction: float


@dataclass(frozen=True)
class Shard:
    """Consecutive documents; `split` is None where the hash of each decides."""

    index: int
    texts: Sequence[str]
    split: SplitName | None
    digest: str
    bytes_read: int


def shard_path(folder: Path, split: SplitName, index: int) -> Path:
    """The Arrow file of shard `index`; there is none when the split got no sequence from it."""
    return folder / split / f"shard-{index:05d}.arrow"


def record_path(folder: Path, index: int) -> Path:
    """The JSON file that says shard `index` is done."""
    return folder / "shards" / f"shard-{index:05d}.json"


def read_record(folder: Path, index: int) -> ShardRecord | None:
    """The record of shard `index`, or None if it, or a file it speaks of, is not whole."""
    try:
        record = ShardRecord.model_validate_json(record_path(folder, index).read_bytes())
    except (OSError, ValidationError):
        return None
    return record if all(_is_whole(folder, name, index, record) for name in SPLITS) else None


def _is_whole(folder: Path, name: SplitName, index: int, record: ShardRecord) -> bool:
    counts = record.split(name)
    try:
        return (
            not counts.sequences or shard_path(folder, name, index).stat().st_size == counts.bytes
        )
    except OSError:
        return False


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, bring it to the disk, then give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_atomically` for a UTF-8 text."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document is kept out of training: decided by its text alone, so it stays so."""
    if fraction <= 0.0:
        return False
    digest = blake2b(text.strip().encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64 < fraction


@dataclass(frozen=True)
class Segment:
    """A piece of one document that is tokenised by itself."""

    text: str
    split: SplitName
    is_last: bool


def segments(text: str, split: SplitName, whole: bool) -> Iterator[Segment]:
    """Cut a long document at line ends, so that threads share it and memory stays bounded.

    Args:
        text: one document.
        split: where it belongs.
        whole: never cut, for tokenizers that look across whitespace.
    """
    start = 0
    while not whole and len(text) - start > SEGMENT_CHARS:
        end = text.rfind("\n", start, start + SEGMENT_CHARS) + 1
        end = end or text.find("\n", start + SEGMENT_CHARS) + 1
        if not end:
            break
        yield Segment(text[start:end], split, is_last=end == len(text))
        start = end
    if start < len(text):
        yield Segment(text[start:], split, is_last=True)


def _batches(pieces: Iterator[Segment]) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    num_chars = 0
    for piece in pieces:
        batch.append(piece)
        num_chars += len(piece.text)
        if num_chars >= BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


@dataclass
class Sequences:
    """The sequences of one split, filled up within a document and never across two.

    Add the encodings of a document's segments in order, then `finish` it.
    """

    recipe: Recipe
    values: "array[int]" = field(default_factory=lambda: array("i"))
    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    num_documents: int = 0
    num_empty: int = 0
    num_remainders: int = 0
    num_remainder_tokens: int = 0
    _carry: list[int] = field(default_factory=list)
    _has_tokens: bool = False

    @property
    def room(self) -> int:
        """Tokens of text that fit into one sequence."""
        return self.recipe.max_length - NUM_SPECIALS

    def add(self, encoding: Encoding) -> None:
        """Go on with the document; what does not fill a sequence yet is carried."""
        ids = self._carry + encoding.ids
        offset = len(self._carry)
        self._has_tokens = self._has_tokens or bool(ids)
        start = 0
        while len(ids) - start > self.room:
            end = self._cut(ids, start, offset, encoding)
            self._emit(ids[start:end])
            start = end
        self._carry = ids[start:]

    def finish(self) -> None:
        """End the document: its remainder becomes a sequence, or is dropped and counted."""
        if not self._has_tokens:
            self.num_empty += 1
            return
        self.num_documents += 1
        if len(self._carry) + NUM_SPECIALS >= self.recipe.min_length:
            self._emit(self._carry)
        else:
            self.num_remainders += 1
            self.num_remainder_tokens += len(self._carry)
        self._carry, self._has_tokens = [], False

    def _cut(self, ids: list[int], start: int, offset: int, encoding: Encoding) -> int:
        """Where the sequence from `start` ends: before a word, unless that makes it too short."""
        end = start + self.room
        # A segment starts with a word, so there is no need to look back into the carried tokens.
        shortest = max(start + self.recipe.min_length - NUM_SPECIALS, offset)
        for cut in range(end, shortest - 1, -1):
            if not self._is_within_word(ids, cut, offset, encoding):
                return cut
        return end

    def _is_within_word(self, ids: list[int], cut: int, offset: int, encoding: Encoding) -> bool:
        if cut == offset:
            return False
        if self.recipe.continuations is not None:
            return ids[cut] in self.recipe.continuations
        word = encoding.token_to_word(cut - offset)
        return word is not None and word == encoding.token_to_word(cut - offset - 1)

    def _emit(self, ids: list[int]) -> None:
        self.values.append(self.recipe.cls_token_id)
        self.values.fromlist(ids)
        self.values.append(self.recipe.sep_token_id)
        self.lengths.append(len(ids) + NUM_SPECIALS)


class ShardWriter:
    """Turns shards into files. One lives in each process that works on a store."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._tokenizer = Tokenizer.from_str(recipe.backend)
        # "[MASK]" written in a text is text; only we place special tokens.
        self._tokenizer.encode_special_tokens = True

    def write(self, shard: Shard) -> ShardRecord:
        """Tokenise `shard` and write its Arrow files, then its record.

        Raises:
            OSError: the store cannot be written.
        """
        sequences = self._tokenise(shard)
        record = self._record(shard, sequences)
        path = record_path(self.recipe.folder, shard.index)
        write_text_atomically(path, record.model_dump_json() + "\n")
        return record

    def _tokenise(self, shard: Shard) -> dict[SplitName, Sequences]:
        sequences = {name: Sequences(self.recipe) for name in SPLITS}
        for batch in _batches(self._segments(shard, sequences)):
            for segment, encoding in zip(batch, self._encode(batch), strict=True):
                sequences[segment.split].add(encoding)
                if segment.is_last:
                    sequences[segment.split].finish()
        return sequences

    def _segments(self, shard: Shard, sequences: dict[SplitName, Sequences]) -> Iterator[Segment]:
        for text in shard.texts:
            split = shard.split or self._split_of(text)
            if text.strip():
                yield from segments(text, split, whole=not self.recipe.splits_at_whitespace)
            else:
                sequences[split].num_empty += 1

    def _split_of(self, text: str) -> SplitName:
        return "held_out" if is_held_out(text, self.recipe.held_out_fraction) else "train"

    def _encode(self, batch: list[Segment]) -> list[Encoding]:
        texts = [segment.text for segment in batch]
        # The fast call knows no words; it will do where the vocabulary tells how words go on.
        if self.recipe.continuations is not None:
            return self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return self._tokenizer.encode_batch(texts, add_special_tokens=False)

    def _record(self, shard: Shard, sequences: dict[SplitName, Sequences]) -> ShardRecord:
        counts = {name: self._write_split(shard.index, name, sequences[name]) for name in SPLITS}
        train = np.frombuffer(sequences["train"].values, dtype=np.int32)
        token_counts = np.bincount(train) if train.size else np.zeros(0, np.int64)
        token_ids = np.flatnonzero(token_counts)
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
        )

    def _write_split(self, index: int, name: SplitName, sequences: Sequences) -> SplitCounts:
        size = 0
        if sequences.lengths:
            path = shard_path(self.recipe.folder, name, index)
            write_atomically(path, lambda temporary: _write_arrow(temporary, sequences))
            size = path.stat().st_size
        return SplitCounts(
            documents=sequences.num_documents,
            sequences=len(sequences.lengths),
            tokens=len(sequences.values),
            bytes=size,
        )


def _dropped(sequences: list[Sequences]) -> dict[str, Dropped]:
    return {
        "empty_document": Dropped(count=sum(part.num_empty for part in sequences)),
        "short_remainder": Dropped(
            count=sum(part.num_remainders for part in sequences),
            tokens=sum(part.num_remainder_tokens for part in sequences),
        ),
    }


def _write_arrow(path: Path, sequences: Sequences) -> None:
    import pyarrow as pa
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    offsets = np.zeros(len(sequences.lengths) + 1, dtype=np.int32)
    np.cumsum(np.frombuffer(sequences.lengths, dtype=np.int32), out=offsets[1:])
    values = np.frombuffer(sequences.values, dtype=np.int32)
    table = pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))})
    features = Features({"input_ids": List(Value("int32"))})
    with ArrowWriter(features=features, path=str(path)) as writer:
        # One record batch, so that a reader maps one array of values and one of offsets.
        writer.write_table(table, writer_batch_size=table.num_rows)
        writer.finalize()


_writer: ShardWriter | None = None


def start_worker(recipe: Recipe) -> None:
    """Make this process ready to write shards; as many run as there are cores to use."""
    global _writer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _writer = ShardWriter(recipe)


def write_in_worker(shard: Shard) -> ShardRecord:
    """`ShardWriter.write` in a process that `start_worker` made ready."""
    assert _writer is not None
    return _writer.write(shard)


def continuation_ids(backend: dict[str, Any]) -> frozenset[int] | None:
    """Ids of tokens that go on with a word, for a WordPiece tokenizer; None for others."""
    model = backend["model"]
    prefix = model.get("continuing_subword_prefix")
    if model.get("type") != "WordPiece" or not prefix:
        return None
    added = {token["id"] for token in backend["added_tokens"]}
    ids = (index for token, index in model["vocab"].items() if token.startswith(prefix))
    return frozenset(ids) - added


def make_recipe(
    folder: Path,
    backend: str,
    special_ids: tuple[int, int],
    lengths: tuple[int, int],
    held_out_fraction: float,
) -> Recipe:
    """A recipe whose properties of the tokenizer are read off its JSON.

    Args:
        folder: the store.
        backend: JSON of the fast tokenizer.
        special_ids: of [CLS] and [SEP].
        lengths: longest and shortest sequence, in tokens with [CLS] and [SEP].
        held_out_fraction: share of documents to keep out of training.
    """
    tree = json.loads(backend)
    pre_tokenizer = (tree["pre_tokenizer"] or {}).get("type")
    return Recipe(
        folder=folder,
        backend=backend,
        cls_token_id=special_ids[0],
        sep_token_id=special_ids[1],
        continuations=continuation_ids(tree) if pre_tokenizer in SPLITS_AT_WHITESPACE else None,
        splits_at_whitespace=pre_tokenizer in SPLITS_AT_WHITESPACE,
        max_length=lengths[0],
        min_length=lengths[1],
        held_out_fraction=held_out_fraction,
    )
