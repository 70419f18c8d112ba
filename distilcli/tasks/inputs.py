"""Inputs of a task as the models take them: tokens end to end, where outputs are read, targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from distilcli.batches.packing import PackedSequences, positions
from distilcli.files.digests import array_digest
from distilcli.losses.candidates import Candidates, candidates_of
from distilcli.tasks.shown import Shown
from distilcli.text.row import IGNORE_INDEX


@dataclass(frozen=True)
class Inputs:
    """All inputs of one split.

    Attributes:
        token_ids: int32 [tokens], all inputs end to end.
        token_types: int8 [tokens], 1 in the second text of a pair.
        offsets: int64 [inputs + 1], the first token of each input, then the number of tokens.
        output_positions: int32 [rows], the tokens in their own inputs at which outputs are read.
        output_offsets: int64 [inputs + 1], the first row of each input, then the number of rows.
        targets: of each row, or of each input for spans (start and end); see the tasks. Where
            there is no label: `IGNORE_INDEX` for a class or a position, NaN for a number.
        teacher_outputs: float32 [rows, classes], what a teacher that is a file puts out for each
            row; None: no file is the teacher, or it does not know all rows.
        shown: what each input is made of, for models with tokenizers of their own; empty where
            nothing says it, as of inputs whose tokens were changed.
        group_offsets: int64 [groups + 1], the first input of each group, such as the candidates of
            a query, then the number of inputs; None: each input stands alone.
    """

    token_ids: np.ndarray
    token_types: np.ndarray
    offsets: np.ndarray
    output_positions: np.ndarray
    output_offsets: np.ndarray
    targets: np.ndarray
    shown: Sequence[Shown] = ()
    group_offsets: np.ndarray | None = None
    teacher_outputs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property  # every batch asks
    def lengths(self) -> np.ndarray:
        """Tokens of each input, int32."""
        return np.diff(self.offsets).astype(np.int32)

    @cached_property
    def sample_lengths(self) -> np.ndarray:
        """Tokens of each sample: of a group, or of an input that stands alone; int32."""
        if self.group_offsets is None:
            return self.lengths
        lengths: np.ndarray = np.diff(self.offsets[self.group_offsets]).astype(np.int32)
        return lengths

    def members(self, samples: Sequence[int]) -> list[int]:
        """The inputs of some samples, one sample after another."""
        if self.group_offsets is None:
            return list(samples)
        found: list[int] = _spans(self.group_offsets, np.asarray(samples)).tolist()
        return found

    @cached_property  # every batch asks
    def num_outputs_of(self) -> np.ndarray:
        """Rows of each input, int64."""
        return np.diff(self.output_offsets)

    @property
    def targets_are_of_rows(self) -> bool:
        """Whether there is a target for each row of outputs; else there is one for each input."""
        return len(self.targets) == int(self.output_offsets[-1])

    @property
    def num_samples(self) -> int:
        """Groups, or inputs that stand alone."""
        return len(self.sample_lengths)

    def labelled(self) -> np.ndarray:
        """Whether a sample has a label, or some of its rows have one; bool [samples]."""
        found = has_label(self.targets)
        if self.targets_are_of_rows:
            found = _any_of_each(found, self.output_offsets)
        return found if self.group_offsets is None else _any_of_each(found, self.group_offsets)

    def fingerprint(self) -> str:
        """Hash of what a model is shown and where it is read; hexadecimal."""
        digest = blake2b(digest_size=16)
        shown = self.token_ids, self.token_types, self.offsets
        for array in (*shown, self.output_positions, self.output_offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def content_digest(self) -> str:
        """Digest of what a model is shown, where it is read, and all targets; not of a teacher."""
        arrays = [
            self.token_ids,
            self.token_types,
            self.offsets,
            self.output_positions,
            self.output_offsets,
            self.targets,
        ]
        groups = [] if self.group_offsets is None else [self.group_offsets]
        return array_digest([*arrays, *groups])


@dataclass(frozen=True)
class Cut:
    """What of the texts of one split is in no input.

    Attributes:
        inputs: texts (or questions, or words) that are shown in part.
        tokens: how many of their tokens are not shown.
        shown: tokens of all inputs.
    """

    inputs: int
    tokens: int
    shown: int

    def __add__(self, other: "Cut") -> "Cut":
        """What of both is in no input."""
        return Cut(self.inputs + other.inputs, self.tokens + other.tokens, self.shown + other.shown)

    @property
    def share(self) -> float:
        """Of all tokens those that are not shown, as a fraction."""
        return self.tokens / max(self.tokens + self.shown, 1)


def join(
    token_ids: Sequence[Sequence[int]],
    token_types: Sequence[Sequence[int]],
    output_positions: Sequence[Sequence[int]],
    targets: np.ndarray,
    shown: Sequence[Shown] = (),
) -> Inputs:
    """Inputs from a list of each thing for every input."""
    return Inputs(
        token_ids=_flat(token_ids, np.int32),
        token_types=_flat(token_types, np.int8),
        offsets=_offsets(token_ids),
        output_positions=_flat(output_positions, np.int32),
        output_offsets=_offsets(output_positions),
        targets=targets,
        shown=shown,
    )


def without_labels(inputs: Inputs) -> Inputs:
    """The same inputs, of which only a teacher's outputs say anything."""
    targets = inputs.targets
    return replace(inputs, targets=np.full_like(targets, no_label(targets.dtype)))


def no_label(dtype: np.dtype) -> float | int:
    """What stands for a target that is not known."""
    return np.nan if dtype.kind == "f" else IGNORE_INDEX


def end_to_end(parts: Sequence[Inputs]) -> Inputs:
    """The inputs of several parts, one part after another."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    num_outputs = np.concatenate([part.num_outputs_of for part in parts])
    return Inputs(
        token_ids=np.concatenate([part.token_ids for part in parts]),
        token_types=np.concatenate([part.token_types for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        output_positions=np.concatenate([part.output_positions for part in parts]),
        output_offsets=np.concatenate([[0], np.cumsum(num_outputs, dtype=np.int64)]),
        targets=np.concatenate([part.targets for part in parts]),
        shown=[one for part in parts for one in part.shown],
        group_offsets=_groups_end_to_end(parts),
    )


def _groups_end_to_end(parts: Sequence[Inputs]) -> np.ndarray | None:
    sizes = [np.diff(part.group_offsets) for part in parts if part.group_offsets is not None]
    if not sizes:
        return None
    assert len(sizes) == len(parts)  # inputs of one task all stand alone, or none does
    return np.concatenate([[0], np.cumsum(np.concatenate(sizes), dtype=np.int64)])


def part_of(inputs: Inputs, first: int, end: int) -> Inputs:
    """The inputs from `first` to before `end`, between which groups are whole."""
    groups = inputs.group_offsets
    if groups is not None:
        groups = groups[(groups >= first) & (groups <= end)] - first
    tokens = slice(inputs.offsets[first], inputs.offsets[end])
    rows = slice(inputs.output_offsets[first], inputs.output_offsets[end])
    return Inputs(
        token_ids=inputs.token_ids[tokens],
        token_types=inputs.token_types[tokens],
        offsets=inputs.offsets[first : end + 1] - inputs.offsets[first],
        output_positions=inputs.output_positions[rows],
        output_offsets=inputs.output_offsets[first : end + 1] - inputs.output_offsets[first],
        targets=inputs.targets[rows if inputs.targets_are_of_rows else slice(first, end)],
        shown=inputs.shown[first:end],
        group_offsets=groups,
        teacher_outputs=None if inputs.teacher_outputs is None else inputs.teacher_outputs[rows],
    )


def _any_of_each(found: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Whether some of the values from each offset to the next are true."""
    counts = np.concatenate([[0], np.cumsum(found)])
    of_each: np.ndarray = np.diff(counts[offsets]) > 0
    return of_each


def has_label(targets: np.ndarray) -> np.ndarray:
    """Which of some targets say something, bool [targets]."""
    known = ~np.isnan(targets) if targets.dtype.kind == "f" else targets != IGNORE_INDEX
    of_each: np.ndarray = known.all(axis=tuple(range(1, known.ndim)))
    return of_each


def _flat(rows: Sequence[Sequence[int]], dtype: type) -> np.ndarray:
    total = sum(len(row) for row in rows)
    return np.fromiter((value for row in rows for value in row), dtype, total)


def _offsets(rows: Sequence[Sequence[int]]) -> np.ndarray:
    return np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)


@dataclass(frozen=True)
class TaskBatch(PackedSequences):
    """One micro-batch of a task.

    Attributes:
        token_type_ids: 1 in the second text of a pair.
        output_positions: where in the row of tokens outputs are read.
        targets: of each output, or of each input for spans; as in `Inputs`.
        num_labels: how many of the targets say something.
        candidates: of which queries the inputs are candidates, if they are such.
        teacher_outputs: the teacher's outputs, where they are known.
        teacher_hidden: the teacher's last hidden states, where they are known and wanted.
        other_outputs: the outputs of the other teachers, where there are some and they are known.
    """

    token_type_ids: Int[Tensor, "1 tokens"]
    output_positions: Int[Tensor, " outputs"]
    targets: Tensor
    num_labels: int
    teacher_outputs: Float[Tensor, "outputs classes"] | None = None
    teacher_hidden: Float[Tensor, "tokens hidden"] | None = None
    other_outputs: Float[Tensor, "others outputs classes"] | None = None
    candidates: Candidates | None = None

    @property
    def num_outputs(self) -> int:
        """Rows of outputs."""
        return self.output_positions.shape[0]


def pack_inputs(
    inputs: Inputs,
    samples: Sequence[int],
    teacher: tuple[np.ndarray, np.ndarray | None] | None = None,
    others: Sequence[np.ndarray] = (),
) -> TaskBatch:
    """Lay the given inputs end to end.

    Args:
        inputs: what they are taken from.
        samples: their indices.
        teacher: its outputs and hidden states for these samples, end to end.
        others: the outputs of each of the other teachers, likewise.
    """
    chosen = np.asarray(samples, dtype=np.int64)
    lengths = inputs.lengths[chosen].astype(np.int64)
    position_ids, boundaries = positions(lengths)
    tokens = _spans(inputs.offsets, chosen)
    rows = _spans(inputs.output_offsets, chosen)
    starts = np.repeat(np.cumsum(lengths) - lengths, inputs.num_outputs_of[chosen])
    outputs, hidden = teacher or (None, None)
    targets = inputs.targets[rows if inputs.targets_are_of_rows else chosen]
    return TaskBatch(
        input_ids=torch.from_numpy(inputs.token_ids[tokens].astype(np.int64))[None],
        position_ids=position_ids,
        boundaries=boundaries,
        lengths=tuple(lengths.tolist()),
        sample_ids=tuple(int(sample) for sample in samples),
        token_type_ids=torch.from_numpy(inputs.token_types[tokens].astype(np.int64))[None],
        output_positions=torch.from_numpy(inputs.output_positions[rows] + starts),
        targets=torch.from_numpy(targets),
        num_labels=int(has_label(targets).sum()),
        teacher_outputs=None if outputs is None else torch.from_numpy(outputs),
        teacher_hidden=None if hidden is None else torch.from_numpy(hidden),
        other_outputs=torch.from_numpy(np.stack(others)) if others else None,
    )


def pack_samples(
    inputs: Inputs,
    samples: Sequence[int],
    teacher: tuple[np.ndarray, np.ndarray | None] | None = None,
    others: Sequence[np.ndarray] = (),
) -> TaskBatch:
    """Lay the given samples end to end: groups with all their inputs, or inputs.

    Args:
        inputs: what they are taken from.
        samples: their indices.
        teacher: its outputs and hidden states for the inputs of these samples, end to end.
        others: the outputs of each of the other teachers, likewise.
    """
    batch = pack_inputs(inputs, inputs.members(samples), teacher, others)
    if inputs.group_offsets is None:
        return batch
    sizes = np.diff(inputs.group_offsets)[np.asarray(samples)].tolist()
    return replace(batch, candidates=candidates_of(batch.targets.numpy(), sizes))


def _spans(offsets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The indices offsets[i] ... offsets[i + 1] - 1 of each chosen i, one after another."""
    if len(chosen) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in chosen])
