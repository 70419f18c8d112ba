"""Micro-batches of texts that come in groups, packed by length."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from distilcli.tasks.inputs import Inputs, TaskBatch, pack_inputs


@dataclass(frozen=True)
class GroupedTexts(TaskBatch):
    """Packed texts, shortest first, with the groups that they are of.

    Attributes:
        places: of each text, group by group, which one it is of the packed ones.
        groups: how many texts each group has.
    """

    places: Int[Tensor, " texts"] = field(kw_only=True)
    groups: tuple[int, ...] = field(kw_only=True)

    @property
    def num_texts(self) -> int:
        """All of them."""
        return len(self.lengths)


def pack_groups(
    inputs: Inputs,
    texts: Sequence[int],
    group_size: int,
    teacher: np.ndarray | None = None,
) -> GroupedTexts:
    """Pack texts, neighbours of equal length, and keep which are of one group.

    Args:
        inputs: what they are taken from, one output each.
        texts: their indices, group by group.
        group_size: texts of a group; the last one may be smaller.
        teacher: the teacher's vectors for these texts, in this order.
    """
    chosen = np.asarray(texts, dtype=np.int64)
    order = np.argsort(inputs.lengths[chosen], kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    known = None if teacher is None else (teacher[order], None)
    packed = pack_inputs(inputs, chosen[order].tolist(), known)
    starts = range(0, len(chosen), group_size)
    return GroupedTexts(
        **vars(packed),
        places=torch.from_numpy(places),
        groups=tuple(min(group_size, len(chosen) - start) for start in starts),
    )
