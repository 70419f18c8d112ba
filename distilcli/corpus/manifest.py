"""What a token store says about itself in JSON: a record of each shard, and the manifest."""

from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from distilcli.files.digests import text_digest
from distilcli.files.json_text import to_json
from distilcli.text.overlap import Overlap

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")
SOURCE_KEYS = ("data.sources", "data.held_out_sources")  # where the experiment names the text
Count = Annotated[StrictInt, Field(ge=0)]


class Record(BaseModel):
    """Base of what a store keeps in JSON: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Sealed = TypeVar("_Sealed", bound="SealedRecord")


class SealedRecord(Record):
    """A record with a digest of itself, which shows that it was edited or damaged.

    Attributes:
        seal: the digest of the rest; None in what was written before there were any.
    """

    seal: str | None = None

    def sealed(self: _Sealed) -> _Sealed:
        """The same record with its digest."""
        return self.model_copy(update={"seal": self._digest()})

    @property
    def is_as_written(self) -> bool:
        """Whether the digest is that of the rest, if there is one."""
        return self.seal is None or self.seal == self._digest()

    def _digest(self) -> str:
        # Without what has its default: a later version may have more of that.
        tree = self.model_dump(mode="json", exclude={"seal"}, exclude_defaults=True)
        return text_digest(to_json(tree, sort_keys=True))


class SplitCounts(Record):
    """What one split holds; `tokens` includes [CLS] and [SEP].

    `bytes` and `digest` (see `digests.py`) are of the Arrow file, if there is one.
    """

    documents: Count = 0
    sequences: Count = 0
    tokens: Count = 0
    bytes: Count = 0
    digest: str | None = None


class InputStamp(Record):
    """An input file as it was when it was read: times of change, and a digest of its content."""

    mtime_ns: int
    ctime_ns: int
    digest: str


class Dropped(Record):
    """Text that is in no sequence: how many documents or remainders, and their tokens."""

    count: Count = 0
    tokens: Count = 0


class PairCounts(Record):
    """What one split of a paired store holds of the teacher.

    Attributes:
        tokens: of the teacher, [CLS] and [SEP] included.
        text_tokens: of the student, without [CLS] and [SEP].
        agreed: of these, how many are the same piece of the same text on both sides.
    """

    tokens: Count = 0
    text_tokens: Count = 0
    agreed: Count = 0


class ShardRecord(SealedRecord):
    """What became of one shard; `token_ids` and `token_counts` are of its train split.

    `teacher` is of paired stores: counts of each split.
    """

    digest: str
    train: SplitCounts
    held_out: SplitCounts
    dropped: dict[str, Dropped]
    length_histogram: dict[SplitName, dict[int, int]]
    token_ids: list[int]
    token_counts: list[int]
    teacher: dict[SplitName, PairCounts] | None = None

    def to_json(self) -> str:
        """JSON in one line."""
        return self.model_dump_json(exclude=_unset(self.teacher)) + "\n"

    def split(self, name: SplitName) -> SplitCounts:
        """The counts of the split called `name`."""
        return self.train if name == "train" else self.held_out


def _unset(teacher: object) -> set[str]:
    """What a store that is not paired does not mention: it is as it was before there were pairs."""
    return {"teacher"} if teacher is None else set()


class TeacherRecord(Record):
    """The teacher's side of a paired store.

    Attributes:
        tokenizer_fingerprint: of the teacher's tokenizer.
        tokenizer_model: the teacher.
        vocab_size: one more than its largest token id.
        shards: of each split, tokens of the teacher by shard.
        counts: of each split.
    """

    tokenizer_fingerprint: str
    tokenizer_model: str
    vocab_size: int
    shards: dict[SplitName, list[Count]]
    counts: dict[SplitName, PairCounts]


class Manifest(SealedRecord):
    """What a finished store holds and how it was made.

    Attributes:
        settings: every setting that the store depends on.
        tokenizer_fingerprint: see the function of this name.
        tokenizer_model: the model whose tokenizer it was.
        vocab_size: one more than the largest token id.
        files: path and size in bytes of every input file, in reading order.
        dropped: by reason: empty_document, short_remainder.
        length_histogram: of each split: number of sequences by their length in tokens.
        shards: Arrow files: of each split, (sequences, tokens, bytes) by shard.
        digests: of the content of each Arrow file, None where there is none; None of a store that
            was made before there were digests.
        stamps: of every input file by its path; None likewise.
        token_counts: occurrences in the train split by token id.
        unknown_share: of the tokens of the train split, how many are [UNK], as a fraction; None in
            stores of before this was kept.
        held_out_in_train: documents of `data.held_out_sources` that are in `data.sources`, too.
        teacher: the other side of a paired store; None of one that is not paired.
    """

    settings: dict[str, Any]
    tokenizer_fingerprint: str
    tokenizer_model: str
    vocab_size: int
    max_length: int
    files: list[tuple[str, int]]
    train: SplitCounts
    held_out: SplitCounts
    dropped: dict[str, Dropped]
    length_histogram: dict[SplitName, dict[int, int]]
    shards: dict[SplitName, list[tuple[Count, Count, Count]]]
    digests: dict[SplitName, list[str | None]] | None = None
    stamps: dict[str, InputStamp] | None = None
    token_counts: list[Count]
    unknown_share: float | None = None
    held_out_in_train: int = 0
    teacher: TeacherRecord | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> "Manifest":
        """A manifest that was edited by hand, of a time when there was no seal."""
        if len(self.token_counts) != self.vocab_size or set(self.shards) != set(SPLITS):
            raise ValueError("vocab_size, token_counts and shards do not belong together")
        if self.digests is not None:
            lengths = {name: len(shards) for name, shards in self.shards.items()}
            if {name: len(found) for name, found in self.digests.items()} != lengths:
                raise ValueError("there is not a digest for every shard")
        if self.teacher is not None:
            lengths = {name: len(shards) for name, shards in self.shards.items()}
            if {name: len(found) for name, found in self.teacher.shards.items()} != lengths:
                raise ValueError("there is not a number of the teacher's tokens for every shard")
        return self

    @property
    def overlap(self) -> Overlap:
        """What the held-out documents have in common with those that are trained on."""
        shared, documents = self.held_out_in_train, self.held_out.documents
        return Overlap(shared, documents, are_same=False, keys=SOURCE_KEYS, unit="documents")

    def to_json(self) -> str:
        """JSON with one line for each key: readable, although the token counts are long."""
        tree = self.model_dump(mode="json", exclude=_unset(self.teacher))
        lines = (f"  {to_json(key)}: {to_json(value)}" for key, value in tree.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


class Totals:
    """Sums over the records of shards, added in order."""

    def __init__(self, vocab_size: int) -> None:
        self._counts: dict[SplitName, Counter[str]] = {name: Counter() for name in SPLITS}
        self._histogram: dict[SplitName, Counter[int]] = {name: Counter() for name in SPLITS}
        self._shards: dict[SplitName, list[tuple[int, int, int]]] = {name: [] for name in SPLITS}
        self._digests: dict[SplitName, list[str | None]] = {name: [] for name in SPLITS}
        self._pairs: dict[SplitName, Counter[str]] = {name: Counter() for name in SPLITS}
        self._pair_shards: dict[SplitName, list[int]] = {name: [] for name in SPLITS}
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._token_counts = [0] * vocab_size

    def add(self, record: ShardRecord) -> None:
        """Count in one shard."""
        for name in SPLITS:
            split = record.split(name)
            self._counts[name].update(split.model_dump(exclude={"digest"}))
            self._histogram[name].update(record.length_histogram[name])
            self._shards[name].append((split.sequences, split.tokens, split.bytes))
            self._digests[name].append(split.digest)
            pair = (record.teacher or {}).get(name, PairCounts())
            self._pairs[name].update(pair.model_dump())
            self._pair_shards[name].append(pair.tokens)
        for reason, dropped in record.dropped.items():
            self._dropped.update({(reason, key): n for key, n in dropped.model_dump().items()})
        for token, count in zip(record.token_ids, record.token_counts, strict=True):
            self._token_counts[token] += count

    @property
    def has_train_sequences(self) -> bool:
        """Whether there is anything to train on."""
        return self._counts["train"]["sequences"] > 0

    @property
    def token_counts(self) -> np.ndarray:
        """Occurrences in the train split by token id."""
        return np.array(self._token_counts, dtype=np.int64)

    def num_dropped(self, reason: str) -> int:
        """Documents or remainders dropped for `reason`."""
        return self._dropped[reason, "count"]

    def teacher(self, fingerprint: str, model: str, vocab_size: int) -> TeacherRecord:
        """The teacher's side of the shards that were added.

        Args:
            fingerprint: of its tokenizer.
            model: the teacher.
            vocab_size: one more than the largest id of its tokenizer.
        """
        return TeacherRecord(
            tokenizer_fingerprint=fingerprint,
            tokenizer_model=model,
            vocab_size=vocab_size,
            shards=self._pair_shards,
            counts={name: PairCounts(**self._pairs[name]) for name in SPLITS},
        )

    def manifest(
        self,
        settings: dict[str, Any],
        tokenizer_model: str,
        files: list[tuple[str, int]],
        stamps: dict[str, InputStamp],
        unknown_share: float,
        held_out_in_train: int,
        teacher: TeacherRecord | None = None,
    ) -> Manifest:
        """The manifest of the store whose shards were added, sealed."""
        reasons = dict.fromkeys(reason for reason, _ in self._dropped)
        return Manifest(
            settings=settings,
            tokenizer_fingerprint=settings["tokenizer"],
            tokenizer_model=tokenizer_model,
            vocab_size=len(self._token_counts),
            max_length=settings["max_length"],
            files=files,
            train=SplitCounts(**self._counts["train"]),
            held_out=SplitCounts(**self._counts["held_out"]),
            dropped={
                reason: Dropped(
                    count=self._dropped[reason, "count"], tokens=self._dropped[reason, "tokens"]
                )
                for reason in reasons
            },
            length_histogram={name: dict(sorted(self._histogram[name].items())) for name in SPLITS},
            shards=self._shards,
            digests=self._digests,
            stamps=stamps,
            token_counts=self._token_counts,
            unknown_share=unknown_share,
            held_out_in_train=held_out_in_train,
            teacher=teacher,
        ).sealed()
