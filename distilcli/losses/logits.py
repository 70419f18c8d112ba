"""Logits of a chunk of tokens, block by block of the vocabulary, and what terms ask of them.

They lie as [vocabulary, tokens], cut into blocks of rows, so that what is done to a block is done
while a cache holds it.
"""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor


class Logits:
    """One model's logits of a chunk of tokens.

    Args:
        blocks: of the vocabulary in its order, each [rows, tokens].
    """

    def __init__(self, blocks: list[Tensor]) -> None:
        self.blocks = blocks
        self._log_sums: dict[tuple[float, int | None], Tensor] = {}

    def log_sum(self, temperature: float = 1.0, first: int | None = None) -> Tensor:
        """log of the sum over the vocabulary of exp(logits / temperature), [tokens].

        It is computed once, however many terms ask for it.

        Args:
            temperature: T.
            first: so many tokens from the first one; None: all.
        """
        key = temperature, first
        if key not in self._log_sums:
            sums = [_log_sum_exp(block[:, :first], 1.0 / temperature) for block in self.blocks]
            self._log_sums[key] = torch.logsumexp(torch.stack(sums), dim=0)
        return self._log_sums[key]

    def log_probs(
        self, index: int, temperature: float = 1.0, first: int | None = None
    ) -> Float[Tensor, "rows tokens"]:
        """Logarithms of the probabilities in block `index`, as a tensor of their own."""
        log_sum = self.log_sum(temperature, first)
        # In one pass: a scaled copy of the logits would be another.
        return torch.add(-log_sum, self.blocks[index][:, :first], alpha=1.0 / temperature)

    def probs(
        self, index: int, temperature: float = 1.0, first: int | None = None
    ) -> Float[Tensor, "rows tokens"]:
        """Probabilities in block `index`, as a tensor of their own."""
        return self.log_probs(index, temperature, first).exp_()


def _log_sum_exp(logits: Float[Tensor, "rows tokens"], scale: float) -> Float[Tensor, " tokens"]:
    """logsumexp(scale * logits) over the rows, without a scaled copy of the logits."""
    largest = logits.amax(dim=0) * scale
    return torch.add(-largest, logits, alpha=scale).exp_().sum(dim=0).log_().add_(largest)


class Chunk:
    """The logits of both models for the same tokens.

    Args:
        student: z.
        teacher: v; None where no term compares.
        vocab_size: rows of all blocks together.
    """

    def __init__(self, student: Logits, teacher: Logits | None, vocab_size: int) -> None:
        self.student = student
        self._teacher = teacher
        self.vocab_size = vocab_size

    @property
    def teacher(self) -> Logits:
        """v, for terms that need a teacher."""
        assert self._teacher is not None
        return self._teacher


class Block:
    """Some rows of the vocabulary of a chunk.

    Args:
        chunk: which.
        index: of the block.
        rows: of the vocabulary.
    """

    def __init__(self, chunk: Chunk, index: int, rows: slice) -> None:
        self.chunk = chunk
        self.index = index
        self.rows = rows

    @property
    def student(self) -> Float[Tensor, "rows tokens"]:
        """z; not to be changed."""
        return self.chunk.student.blocks[self.index]

    @property
    def teacher(self) -> Float[Tensor, "rows tokens"]:
        """v; not to be changed."""
        return self.chunk.teacher.blocks[self.index]

    @cached_property
    def difference(self) -> Float[Tensor, "rows tokens"]:
        """v - z; not to be changed."""
        return self.teacher - self.student


class BlockGradient:
    """d total / d z of one block, which the terms add up.

    Args:
        like: a tensor of its shape, type and device.
    """

    def __init__(self, like: Float[Tensor, "rows tokens"]) -> None:
        self._like = like
        self._sum: Tensor | None = None

    @property
    def sum(self) -> Float[Tensor, "rows tokens"]:
        """What has been added so far, to be added to in place."""
        if self._sum is None:
            self._sum = torch.zeros_like(self._like)
        return self._sum

    def add(self, part: Float[Tensor, "rows tokens"]) -> None:
        """Add a tensor that nobody else uses: the first one is kept, and no zeros are made."""
        self._sum = part if self._sum is None else self._sum.add_(part)
