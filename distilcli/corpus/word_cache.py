"""Tokens of texts, word by word: what was tokenised once is looked up.

The hundred commonest words make up about half of a text, and a tokenizer that never looks across
a space gives each of them the same tokens wherever it stands.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

# Characters of remembered words: with their tokens some 100 MB. More make room by forgetting all.
MAX_CHARS = 1 << 21
# With these a token never spans white space.
SPLITS_AT_WHITESPACE = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
# This one makes a word of every punctuation mark, too.
SPLITS_AT_MARKS = "BertPreTokenizer"
# These change characters one by one, or with the combining marks after them: never across a space.
_LOCAL_NORMALIZERS = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents")


def splits_at_spaces(backend: dict[str, Any]) -> bool:
    """Whether a tokenizer gives a text the tokens of its words, one after the other.

    Args:
        backend: JSON tree of a fast tokenizer.
    """
    normalizer = backend["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    return (
        (backend["pre_tokenizer"] or {}).get("type") in SPLITS_AT_WHITESPACE
        and all(not step or step["type"] in _LOCAL_NORMALIZERS for step in steps)
        and not spans_spaces(backend["added_tokens"])
    )


def spans_spaces(added_tokens: Sequence[dict[str, Any]]) -> bool:
    """Whether one of a tokenizer's added tokens, which are found before words are, has a space."""
    return any(character.isspace() for token in added_tokens for character in token["content"])


class Words:
    """The tokens of words, learned as they come.

    Args:
        tokenizer: one of those that `splits_at_spaces` is true of.
        max_chars: how many characters to remember, of all words together.
    """

    def __init__(self, tokenizer: Tokenizer, max_chars: int = MAX_CHARS) -> None:
        self._tokenizer = tokenizer
        self._max_chars = max_chars
        self._num_chars = 0
        self._ids: dict[str, list[int]] = {}

    def ids(self, texts: Iterable[str]) -> list[list[int]]:
        """The tokens of each text, without special ones."""
        # A line ends a word as a space does; other white space is left to the tokenizer.
        words = [text.replace("\n", " ").split(" ") for text in texts]
        self._learn(words)
        return [list(chain.from_iterable(map(self._ids.__getitem__, text))) for text in words]

    def _learn(self, words: Sequence[list[str]]) -> None:
        """Tokenise the words that are not cached yet."""
        wanted = set(chain.from_iterable(words))
        missing = wanted - self._ids.keys()
        num_chars = sum(map(len, missing))
        if self._num_chars + num_chars > self._max_chars:
            self._ids.clear()
            self._num_chars = 0
            missing, num_chars = wanted, sum(map(len, wanted))
        self._num_chars += num_chars
        new = list(missing)
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._ids.update(zip(new, (encoding.ids for encoding in encodings), strict=True))
