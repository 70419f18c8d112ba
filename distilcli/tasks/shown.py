"""What the inputs of a task are made of, for models that cut text into other tokens.

An input of a task is tokens of the student. A teacher with a tokenizer of its own is shown the same
text, words or window instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np


@dataclass(frozen=True)
class ShownWords:
    """The words of an input.

    Attributes:
        words: all of them.
        read: indices of those at which outputs are read, rising.
    """

    words: Sequence[str]
    read: Sequence[int]

    def parts(self) -> Iterable[object]:
        """Everything, for a digest."""
        return [*self.words, list(self.read)]


@dataclass(frozen=True)
class ShownWindow:
    """A question and a piece of its context.

    Attributes:
        question: as far as it is shown.
        context: the whole one.
        spans: of each token of the piece the first and last-plus-one character in the context,
            int32 [tokens of the piece, 2].
        first: the first token of the piece, in the input.
        num_tokens: of the input.
    """

    question: str
    context: str
    spans: np.ndarray
    first: int
    num_tokens: int

    @property
    def begin(self) -> int:
        """The first character of the piece."""
        return int(self.spans[:, 0].min())

    @property
    def piece(self) -> str:
        """What is shown of the context."""
        return self.context[self.begin : int(self.spans[:, 1].max())]

    def parts(self) -> Iterable[object]:
        """Everything, for a digest."""
        return [self.question, self.piece, self.spans.tolist(), self.first, self.num_tokens]


# A text or a pair of texts; words; a window.
Shown = tuple[str, ...] | ShownWords | ShownWindow


def digest_of_shown(shown: Sequence[Shown]) -> str:
    """Digest of what all inputs of a split show; hexadecimal."""
    digest = blake2b(digest_size=16)
    for one in shown:
        parts = one if isinstance(one, tuple) else one.parts()
        for part in parts:
            encoded = str(part).encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()
