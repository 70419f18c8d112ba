"""Where words begin among tokens, as far as a vocabulary tells.

Whole-word masking needs the words of sequences that are on disk as token ids. Each piece of a
vocabulary says how it may begin and end, and two pieces are of one word if that fits together:

    WordPiece, and BPE with such a prefix  a piece goes on with a word if it has the prefix ("##")
    BPE that marks the ends of words       a piece begins a word after one that has the suffix
    BPE of bytes; a marker for spaces      a piece begins a word if it begins with white space, if
                                           its first character is of another class (letters,
                                           digits, others) than the last one before it, or is of a
                                           script that is written without spaces
    word level                             every token is a word

Of bytes, a piece that begins within a character goes on with what is before it.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int8, Int32

from distilcli.errors import ModelError
from distilcli.text.tokenizers import (
    backend_tree,
    normalizer_steps,
    pre_tokenizer_steps,
    space_marker,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# How a piece begins or ends. JOINS fits anything, APART nothing, each of the others itself.
_JOINS, _APART, _LETTER, _DIGIT, _OTHER = range(5)
_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")  # of a character that is no piece
_Ends = tuple[int, int]  # how a piece begins, and how it ends
_ALONE: _Ends = (_APART, _APART)
# Scripts in which words are not set apart: Thai, Lao, Burmese, Khmer; kana, Chinese characters.
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)
# The first byte of a character that a piece has no more of: Chinese characters, kana and emoji are
# words of their own, dashes and quotation marks are no letters. Others may be letters.
_FIRST_BYTES = dict.fromkeys([*range(0xE3, 0xEA), 0xF0], _APART) | {0xE2: _OTHER}


@dataclass(frozen=True)
class WordJoints:
    """How each token may begin and end.

    Attributes:
        starts: of each id, int8 [vocab].
        ends: of each id, int8 [vocab].
    """

    starts: Int8[np.ndarray, " vocab"]
    ends: Int8[np.ndarray, " vocab"]

    def begins(self, input_ids: Int32[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
        """Which tokens begin a word; the first one does."""
        start, end = self.starts[input_ids[1:]], self.ends[input_ids[:-1]]
        is_apart = (start == _APART) | (end == _APART)
        differs = (start != end) & (start != _JOINS) & (end != _JOINS)
        begins = np.ones(len(input_ids), dtype=bool)
        begins[1:] = is_apart | differs
        return begins


def word_joints(tokenizer: "PreTrainedTokenizerFast", vocab_size: int) -> WordJoints:
    """What the vocabulary of a tokenizer tells of words.

    Args:
        tokenizer: whose pieces are looked at; added tokens, special ones among them, are words of
            their own.
        vocab_size: ids in the model's vocabulary.

    Raises:
        ModelError: it does not tell where words begin.
    """
    tree = backend_tree(tokenizer)
    ends_of = _rule(tree)
    if ends_of is None:
        raise ModelError(
            f"masking.whole_words: the vocabulary of {tokenizer.name_or_path} does not tell where "
            f"words begin (a {tree['model']['type']} model that marks neither spaces nor the "
            "beginnings or ends of words)",
            "Leave masking.whole_words out, or use a tokenizer that marks them.",
        )
    pieces = tree["model"]["vocab"]
    if not isinstance(pieces, dict):  # Unigram: pieces with their scores
        pieces = {piece: index for index, (piece, _) in enumerate(pieces)}
    added = {token["id"] for token in tree["added_tokens"]}
    table = np.full((2, vocab_size), _APART, dtype=np.int8)
    for piece, index in pieces.items():
        if index < vocab_size and index not in added:
            table[:, index] = ends_of(piece)
    return WordJoints(table[0], table[1])


def _rule(tree: dict[str, Any]) -> Callable[[str], _Ends] | None:
    """What tells how a piece begins and ends; None if nothing does."""
    model = tree["model"]
    prefix, suffix = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    if model["type"] == "WordLevel":
        return lambda piece: _ALONE
    if prefix:
        return lambda piece: (_JOINS if piece.startswith(prefix) else _APART, _JOINS)
    if suffix:
        return lambda piece: (_JOINS, _APART if piece.endswith(suffix) else _JOINS)
    if any(step["type"] == "ByteLevel" for step in pre_tokenizer_steps(tree["pre_tokenizer"])):
        return _ends_of_byte_level
    marker = _marker(tree)
    if not marker:
        return None
    return lambda piece: _ends_of_marked(piece, marker)


def _marker(tree: dict[str, Any]) -> str:
    """What stands for a space in the pieces; empty if nothing does."""
    for step in pre_tokenizer_steps(tree["pre_tokenizer"]):
        if step["type"] == "Metaspace":
            return str(step["replacement"])
    return space_marker(normalizer_steps(tree["normalizer"]))


def _ends_of_byte_level(piece: str) -> _Ends:
    if not _BYTES.keys() >= set(piece):  # no text has it
        return _ALONE
    return _ends_of_bytes(bytes(map(_BYTES.__getitem__, piece)))


def _ends_of_marked(piece: str, marker: str) -> _Ends:
    byte = _ONE_BYTE.fullmatch(piece)
    if byte is not None:
        return _ends_of_bytes(bytes.fromhex(byte[1]))
    return _ends_of_text(piece.replace(marker, " "))


def _ends_of_bytes(content: bytes) -> _Ends:
    """Of a piece of UTF-8, which may begin or end within a character."""
    whole = content.decode("utf-8", errors="ignore")
    start, end = _ends_of_text(whole) if whole else (_JOINS, _JOINS)
    if content and 0x80 <= content[0] < 0xC0:
        start = _JOINS
    elif content and not whole:
        start = _FIRST_BYTES.get(content[0], _JOINS)
    if not content.decode("utf-8", errors="replace").endswith(whole[-1:] or "\0"):
        end = _JOINS
    return start, end


def _ends_of_text(text: str) -> _Ends:
    if text == " ":  # what follows goes on with the word that it begins
        return _APART, _JOINS
    return (_class_of(text[0]), _class_of(text[-1])) if text else (_JOINS, _JOINS)


def _class_of(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] == "M" or category == "Cf":  # accents, and what joins characters
        return _JOINS
    code = ord(character)
    if character.isspace() or any(first <= code <= last for first, last in _WITHOUT_SPACES):
        return _APART
    return {"L": _LETTER, "N": _DIGIT}.get(category[0], _OTHER)


def _byte_names() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {chr(byte): byte for byte in printable}
    return names | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_names()
