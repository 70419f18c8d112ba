"""Texts that are both trained on and measured on: scores on them are not held-out scores."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from distilcli.errors import DataError


@dataclass(frozen=True)
class Overlap:
    """What two sets of texts have in common.

    Attributes:
        shared: how many of the texts that are measured on are trained on, too.
        held_out: how many are measured on.
        are_same: whether nothing else is trained on, nor measured on.
        keys: where the experiment names what is trained on, and what is measured on.
        unit: what the texts are, such as rows or documents.
    """

    shared: int
    held_out: int
    are_same: bool
    keys: tuple[str, str]
    unit: str

    @property
    def warning(self) -> str:
        """What a user should know; empty where nothing is shared."""
        if self.are_same:
            return f"{self._the_same}; train and eval refuse that"
        if not self.shared:
            return ""
        return (
            f"{self.shared:,} of the {self.held_out:,} {self.unit} of {self.keys[1]} "
            f"({self.shared / self.held_out:.1%}) are in {self.keys[0]}, too: "
            "scores on them say nothing of new text"
        )

    @property
    def _the_same(self) -> str:
        return f"{self.keys[1]}: the same {self.unit} as {self.keys[0]}"

    def refuse_same(self) -> None:
        """Refuse to measure on exactly what is trained on.

        Raises:
            DataError: they are the same.
        """
        if self.are_same:
            raise DataError(
                self._the_same,
                f"Keep some {self.unit} out of {self.keys[0]}: a score on what was trained on says "
                "nothing.",
            )


class HeldOutTexts:
    """Texts to be measured on, which are looked for among the texts to train on as those pass.

    Args:
        texts: to be measured on; of each a few bytes are kept.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._digests = Counter(digest_of_texts(text) for text in texts if text.strip())
        self._found: set[bytes] = set()
        self._has_others = False

    def watched(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts, to train on."""
        if not self._digests:  # a hash of every text costs about as much as reading it
            yield from texts
            return
        for text in texts:
            if text.strip():
                digest = digest_of_texts(text)
                if digest in self._digests:
                    self._found.add(digest)
                else:
                    self._has_others = True
            yield text

    def overlap(self, keys: tuple[str, str], unit: str) -> Overlap:
        """What was found so far."""
        shared = sum(self._digests[digest] for digest in self._found)
        are_same = bool(self._found) and not self._has_others
        are_same = are_same and len(self._found) == len(self._digests)
        return Overlap(shared, self._digests.total(), are_same, keys, unit)


def digest_of_texts(*texts: str) -> bytes:
    """Hash of a text, or of the texts of one example, by which it is known again; 8 bytes.

    Blanks at the ends do not matter.
    """
    digest = blake2b(digest_size=8)
    for text in texts:
        encoded = text.strip().encode("utf-8", errors="replace")
        # With its length before each text, no two lists of texts are alike.
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


def overlap(
    train: Iterable[bytes], held_out: Iterable[bytes], keys: tuple[str, str], unit: str
) -> Overlap:
    """Compare what is trained on with what is measured on, given by the `text_digest` of each."""
    trained, measured = set(train), list(held_out)
    shared = sum(digest in trained for digest in measured)
    are_same = bool(trained) and trained == set(measured)
    return Overlap(shared, len(measured), are_same, keys, unit)
