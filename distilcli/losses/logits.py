"""Logits of a chunk of tokens, block by block of the vocabulary, and what terms ask of them.

They lie as [vocabulary, tokens], cut into blocks of rows, so that what is done to a block is done
while a cache holds it. Several teachers are one here: `Mixing` makes their mixture.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class Logits:
    """One model's logits of a chunk of tokens.

    Args:
        blocks: of the vocabulary in its order, each [rows, tokens].
    """

    def __init__(self, blocks: list[Tensor]) -> None:
        self._blocks = blocks
        self._log_sums: dict[tuple[float, bool], Tensor] = {}
        self._probs: dict[tuple[float, bool], Tensor] = {}

    @property
    def blocks(self) -> list[Tensor]:
        """The logits themselves; not to be changed."""
        return self._blocks

    def at(self, temperature: float) -> "Logits":
        """Logits whose softmax at this temperature is the model's distribution: these."""
        return self

    def log_sum(self, temperature: float = 1.0, first: int | None = None) -> Tensor:
        """log of the sum over the vocabulary of exp(logits / temperature), [tokens].

        It is computed once, however many terms ask for it.

        Args:
            temperature: T.
            first: so many tokens from the first one, the same at every call that does not want
                all; None: all.
        """
        # Not the number itself: a compiler that sees it as a key takes it for a constant.
        key = temperature, first is None
        if key not in self._log_sums:
            parts = [block[:, :first] for block in self.blocks]
            if _is_softmax_fast(parts):
                self._log_sums[key], self._probs[key] = _softmax(parts[0], 1.0 / temperature)
            else:
                sums = [_log_sum_exp(part, 1.0 / temperature) for part in parts]
                self._log_sums[key] = _log_sum_of(sums)
        return self._log_sums[key]

    def log_probs(
        self, index: int, temperature: float = 1.0, first: int | None = None
    ) -> Float[Tensor, "rows tokens"]:
        """Logarithms of the probabilities in block `index`, as a tensor of their own."""
        log_sum = self.log_sum(temperature, first)
        if torch.compiler.is_compiling():  # where the temperature is a tensor
            return self.blocks[index][:, :first] * (1.0 / temperature) - log_sum
        # In one pass: a scaled copy of the logits would be another.
        return torch.add(-log_sum, self.blocks[index][:, :first], alpha=1.0 / temperature)

    def probs(
        self, index: int, temperature: float = 1.0, first: int | None = None
    ) -> Float[Tensor, "rows tokens"]:
        """Probabilities in block `index`, as a tensor of their own."""
        self.log_sum(temperature, first)
        found = self._probs.pop((temperature, first is None), None)
        return self.log_probs(index, temperature, first).exp_() if found is None else found


class MixedLogits(Logits):
    """What stands for the logits of several models; it is another at every temperature.

    Args:
        of: by temperature, logits whose softmax at it is the mean of the models' distributions.
    """

    def __init__(self, of: Mapping[float, Logits]) -> None:
        self._of = of

    @property
    def blocks(self) -> list[Tensor]:
        """There are none.

        Raises:
            ValueError: always; a term that reads them has no meaning for several teachers.
        """
        raise ValueError("a mean of distributions has no logits but those at a temperature")

    def at(self, temperature: float) -> Logits:
        """The logits for this temperature, which is one that was asked for beforehand."""
        return self._of[temperature]

    def log_sum(self, temperature: float = 1.0, first: int | None = None) -> Tensor:
        """See `Logits.log_sum`."""
        return self.at(temperature).log_sum(temperature, first)

    def log_probs(
        self, index: int, temperature: float = 1.0, first: int | None = None
    ) -> Float[Tensor, "rows tokens"]:
        """See `Logits.log_probs`."""
        return self.at(temperature).log_probs(index, temperature, first)

    def probs(
        self, index: int, temperature: float = 1.0, first: int | None = None
    ) -> Float[Tensor, "rows tokens"]:
        """See `Logits.probs`."""
        return self.at(temperature).probs(index, temperature, first)


class Mixing:
    """A mixture of models in the making: T * log sum_k w_k softmax(v_k / T), at each temperature.

    The logits of one model are needed after another, and only the sum so far is kept. It is one of
    logarithms, so that what all models find very improbable is not rounded to impossible.

    Args:
        temperatures: at which the mixture will be asked for.
    """

    def __init__(self, temperatures: Iterable[float]) -> None:
        self._log_sums: dict[float, list[Tensor]] = {one: [] for one in temperatures}

    def add(self, logits: Logits, weight: float) -> None:
        """Add a model, whose weight is its share of the mean; its logits are used up."""
        last = next(reversed(self._log_sums), None)
        for temperature, so_far in self._log_sums.items():
            is_first = not so_far
            # log w_k - log-sum, for log (w_k p_k) in one pass.
            constant = math.log(weight) - logits.log_sum(temperature)
            for index, block in enumerate(logits.blocks):
                # In their place, once nobody needs the logits any more: on a GPU a block is all.
                place = block if temperature == last else None
                part = torch.add(constant, block, alpha=1.0 / temperature, out=place)
                if is_first:
                    so_far.append(part)
                else:
                    torch.logaddexp(so_far[index], part, out=so_far[index])

    def result(self) -> MixedLogits:
        """The mixture of what has been added."""
        of = {}
        for temperature, log_sums in self._log_sums.items():
            of[temperature] = Logits([block.mul_(temperature) for block in log_sums])
        return MixedLogits(of)


def sum_of_products(
    one: Float[Tensor, "rows tokens"], other: Float[Tensor, "rows tokens"]
) -> Float[Tensor, ""]:
    """sum_ij one_ij * other_ij, without a tensor of their products."""
    if torch.compiler.is_compiling():
        # Of each token first, which goes together with whatever else is done to its logits.
        return (one * other).sum(dim=0).sum()
    if not one.is_contiguous():
        one, other = one.T, other.T
    return torch.dot(one.reshape(-1), other.reshape(-1))


def _is_softmax_fast(blocks: list[Tensor]) -> bool:
    """Whether a CPU has the logits of each token side by side.

    PyTorch's softmax along memory then takes less time than the exponentials alone.
    """
    if torch.compiler.is_compiling() or len(blocks) > 1 or not blocks[0].numel():
        return False
    return blocks[0].device.type == "cpu" and blocks[0].T.is_contiguous()


def _softmax(
    logits: Float[Tensor, "rows tokens"], scale: float
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "rows tokens"]]:
    """logsumexp(scale * logits) over the rows, and the softmax that it normalises."""
    scaled = logits.T if scale == 1.0 else logits.T * scale
    probs = torch.softmax(scaled, dim=-1)
    # Of the largest logit, whose probability cannot be rounded to 0.
    log_sum = scaled.amax(dim=-1).sub_(probs.amax(dim=-1).log_())
    return log_sum, probs.T


def _log_sum_exp(logits: Float[Tensor, "rows tokens"], scale: float) -> Float[Tensor, " tokens"]:
    """logsumexp(scale * logits) over the rows, without a scaled copy of the logits."""
    if torch.compiler.is_compiling():
        # As compilers know it from softmax: largest value and sum in one pass.
        scaled = logits * scale
        largest = scaled.amax(dim=0, keepdim=True)
        return ((scaled - largest).exp().sum(dim=0, keepdim=True).log() + largest)[0]
    largest = logits.amax(dim=0) * scale
    return torch.add(-largest, logits, alpha=scale).exp_().sum(dim=0).log_().add_(largest)


def _log_sum_of(blocks: list[Tensor]) -> Float[Tensor, " tokens"]:
    """The log-sum over all blocks of those whose log-sums are given."""
    if len(blocks) == 1:
        return blocks[0]
    return torch.logsumexp(torch.stack(blocks), dim=0)


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
        """v, for terms that need a teacher; a `MixedLogits` where there are several."""
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
        self._difference: Tensor | None = None

    @property
    def student(self) -> Float[Tensor, "rows tokens"]:
        """z; not to be changed."""
        return self.chunk.student.blocks[self.index]

    @property
    def teacher(self) -> Float[Tensor, "rows tokens"]:
        """v; not to be changed."""
        return self.chunk.teacher.blocks[self.index]

    @property
    def difference(self) -> Float[Tensor, "rows tokens"]:
        """v - z, made once; not to be changed."""
        if self._difference is None:  # no cached_property, whose lock torch.compile cannot take
            self._difference = self.teacher - self.student
        return self._difference

    def difference_at(self, temperature: float) -> Float[Tensor, "rows tokens"]:
        """v - z, for a term that softens both at this temperature; not to be changed."""
        teacher = self.chunk.teacher.at(temperature)
        if teacher is self.chunk.teacher:
            return self.difference
        return teacher.blocks[self.index] - self.student


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
