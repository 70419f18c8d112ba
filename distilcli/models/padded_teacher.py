"""A teacher that reads a task's texts with a tokenizer of its own, padded; by any architecture.

It gives outputs for the student's inputs, so that whatever compares with a teacher need not know
how it reads.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.files.digests import text_digest
from distilcli.files.json_text import to_json
from distilcli.models.own_tokens import Read, Reader
from distilcli.models.padded import Filling, padded_batch, padded_rows
from distilcli.tasks.outputs import Head
from distilcli.tasks.shown import Shown
from distilcli.text.tokenizers import tokenizer_fingerprint

# How far outputs of an input may differ between alone and in a batch, and from what size on that
# is relative; rounding is a thousandth of it.
_TOLERANCE = 1e-3
_TRIED = 256  # inputs to take a short and a long one from


class PaddedTeacher(nn.Module):
    """A model, its tokenizer, and what its outputs are for the task.

    Args:
        model: with its head, frozen here.
        tokenizer: of its own.
        head: where its outputs are read.
        reader: makes its inputs.
        columns: which of its outputs each class of the task is; None: all, in their order.

    Attributes:
        num_cut: how many of the texts that it has read were shown in part.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        head: Head,
        reader: Reader,
        columns: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self._head = head
        self._reader = reader
        self.num_cut = 0
        self._columns = None if columns is None else list(columns)
        types = "token_type_ids" in tokenizer.model_input_names
        padding = tokenizer.pad_token_id
        self._filling = Filling(padding or 0, tokenizer.padding_side == "left", types)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def width(self) -> int:
        """Of its hidden states; 0 where its configuration does not say it."""
        return int(getattr(self.model.config, "hidden_size", 0) or 0)

    @property
    def longest(self) -> int | None:
        """Tokens that it takes at most; None: any number."""
        return self._reader.longest

    def train(self, mode: bool = True) -> "PaddedTeacher":
        """Stay in eval mode, whatever the student does."""
        return super().train(False)

    def reading(self) -> str:
        """Digest of how it reads and what its outputs are, but for its weights; hexadecimal."""
        how = [self._reader.identity(), self._columns, list(self._filling), self._head]
        text = [tokenizer_fingerprint(self.tokenizer), self.tokenizer.truncation_side]
        return text_digest(to_json([text, how]))

    @torch.no_grad()
    def run(self, shown: Sequence[Shown], tokens_per_batch: int) -> Tensor:
        """Outputs for inputs of the task where those are read, end to end.

        Args:
            shown: what the inputs show.
            tokens_per_batch: of one forward pass, padding included; a longer input is alone.

        Returns:
            fp32 [rows, outputs], on the CPU.
        """
        read = self._reader.read(shown)
        self.num_cut += read.num_cut
        found: dict[int, np.ndarray] = {}
        for group in self._groups(read, tokens_per_batch):
            rows = padded_rows(self.model, self._head, read.inputs, group, self._filling)
            found |= zip(group, (one.cpu().numpy() for one in rows), strict=True)
        outputs = self._reader.rows([found[i] for i in range(len(read.inputs))], read, shown)
        # As it would lie in memory anyway: what is chosen by columns is laid out by columns.
        chosen = outputs if self._columns is None else outputs[:, self._columns]
        return torch.from_numpy(np.ascontiguousarray(chosen))

    def _groups(self, read: Read, tokens: int) -> list[list[int]]:
        """Inputs in order of length, in groups of at most so many tokens with what fills up."""
        lengths = read.inputs.lengths
        groups: list[list[int]] = []
        for sample in np.argsort(lengths, kind="stable").tolist():
            length = int(lengths[sample])
            if not groups or (len(groups[-1]) + 1) * length > tokens:
                groups.append([])
            groups[-1].append(sample)
        return groups

    def passes(self, shown: Sequence[Shown], size: int, device: torch.device) -> Callable[[], None]:
        """A pass over inputs in batches of so many, made before; copying them is a part of it."""
        read = self._reader.read(shown)
        every = range(len(read.inputs))
        parts = [every[start : start + size] for start in every[::size]]
        batches = [padded_batch(self.model, read.inputs, part, self._filling) for part in parts]

        @torch.no_grad()
        def run() -> None:
            for batch in batches:
                self.model(**{name: tensor.to(device) for name, tensor in batch.items()})

        return run

    def check_padding(self, shown: Sequence[Shown], where: str) -> None:
        """Refuse a model whose outputs for an input depend on what it is in a batch with.

        Args:
            shown: some inputs.
            where: opens the message.

        Raises:
            ModelError: they do, or the outputs are not of the head's kind.
        """
        pair = self._ends(shown[:: -(-len(shown) // _TRIED)])
        try:
            together = self.run(pair, 2**30)
            apart = torch.cat([self.run([one], 2**30) for one in pair])
        except (AttributeError, IndexError, ValueError, RuntimeError, TypeError) as error:
            raise ModelError(
                f"{where}: it cannot be run on padded batches ({error})",
                "Use a teacher of another type.",
            ) from error
        self.num_cut = 0  # these two are read only to see whether the model can be used
        room = _TOLERANCE * apart.abs().clamp(min=1.0)
        if not bool(((together - apart).abs() <= room).all()) and bool(apart.isfinite().all()):
            raise ModelError(
                f"{where}: its outputs for a text change with the texts beside it in a batch",
                "It has no attention mask, or takes another token for padding: use another "
                "teacher, or the tokenizer that was saved with it.",
            )

    def _ends(self, shown: Sequence[Shown]) -> list[Shown]:
        """The shortest and the longest of what is shown."""
        read = self._reader.read(shown)
        lengths = read.inputs.lengths
        return [shown[read.owners[int(place)]] for place in (lengths.argmin(), lengths.argmax())]


# What gives the outputs of a task: a model that is run packed, or one that reads for itself.
TaskModel = PreTrainedModel | PaddedTeacher
