"""The pieces of a tokenizer: what each of them needs, and which must stay whatever is removed.

A tokenizer spells words with pieces. When a piece is removed, a word that had it is spelled with
smaller ones, so what can always be spelled with has to stay. What that is depends on the model:

    WordPiece  takes the longest piece that fits, again and again (Schuster, Nakajima 2012)
    BPE        merges pairs of pieces, the first learnt first (Sennrich et al. 2016)
    Unigram    takes the most probable spelling (Kudo 2018)
"""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from distilcli.errors import ModelError
from distilcli.text.tokenizer_checks import SPECIAL_TOKENS
from distilcli.text.tokenizers import backend_tree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_NAMED_TOKENS = (*SPECIAL_TOKENS, "unk_token", "bos_token", "eos_token")
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}  # what a byte is called as a piece
Merge = tuple[int, int, int]  # two pieces, and the one that they become
# A piece and those that are left, to the smaller ones that it is then spelled with.
Speller = Callable[[int, Container[int]], list[int]]


@dataclass(frozen=True)
class Pieces:
    """The pieces of one tokenizer, by their ids.

    Attributes:
        ids: of every piece and every added token.
        always: those without which some text would become unknown, or a text that has none of the
            removed pieces would get other ones; added and special tokens among them.
        order: all ids, those that the tokenizer itself would keep first come first.
        merges: of a BPE, in the order in which they are made; else none.
        spelled: of other models, what a piece is spelled with once it is removed, as far as its
            letters alone tell.
    """

    ids: dict[str, int]
    always: set[int]
    order: list[int]
    merges: list[Merge] = field(default_factory=list)
    spelled: Speller = lambda index, left: []


def pieces_of(tokenizer: "PreTrainedTokenizerFast") -> Pieces:
    """The pieces of a tokenizer.

    A text that the tokenizer knows stays known with the ids of `always` alone wherever each
    character that occurs in a piece is a piece itself, which is how such vocabularies are learnt.
    Where a character is not, all pieces that have it are among them.

    Raises:
        ModelError: its model cannot spell a word with smaller pieces.
    """
    tree = backend_tree(tokenizer)
    kind = tree["model"]["type"]
    if kind not in _KINDS:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} is a {kind}: what is removed from its "
            "vocabulary would be unknown",
            "A vocabulary can be trimmed that spells words with pieces: WordPiece, BPE or Unigram.",
        )
    found = _KINDS[kind](tree["model"], tokenizer)
    special = [getattr(tokenizer, name) for name in _NAMED_TOKENS]
    special += [token["content"] for token in tree["added_tokens"]]
    special.append(tree["model"].get("unk_token"))
    vocabulary = tokenizer.get_vocab()
    always = {vocabulary[str(token)] for token in special if str(token) in vocabulary}
    known = set(found.order)
    added = sorted(index for index in vocabulary.values() if index not in known)
    return replace(found, ids=vocabulary, always=found.always | always, order=added + found.order)


def _word_pieces(model: dict[str, Any], tokenizer: "PreTrainedTokenizerFast") -> Pieces:
    vocabulary: dict[str, int] = model["vocab"]
    names = {index: piece for piece, index in vocabulary.items()}
    prefix: str = model["continuing_subword_prefix"]

    def parts_of(piece: str) -> tuple[bool, str]:
        """Whether it goes on with a word, and its letters."""
        inside = piece.startswith(prefix) and len(piece) > len(prefix)
        return inside, piece[len(prefix) * inside :]

    def letters(piece: str) -> list[str]:
        inside, text = parts_of(piece)
        return [prefix * (inside or place > 0) + letter for place, letter in enumerate(text)]

    def spelled(index: int, left: Container[int]) -> list[int]:
        inside, text = parts_of(names[index])
        found: list[int] = []
        start = 0
        while start < len(text):
            mark = prefix * (inside or start > 0)
            ends = range(len(text), start, -1)
            fits = ((vocabulary.get(mark + text[start:end]), end) for end in ends)
            part, start = next((one for one in fits if one[0] in left), (None, len(text)))
            found += [] if part is None else [part]
        return found

    cut = {index for piece, index in vocabulary.items() if _is_cut(*parts_of(piece), tokenizer)}
    always = _unspelled(vocabulary, letters) - cut
    order = sorted(vocabulary.values(), key=lambda index: (index in cut, index))
    return Pieces(vocabulary, always, order, spelled=spelled)


def _is_cut(inside: bool, text: str, tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether no word has a piece: [unused1] is four words to a BERT, and a+, are two."""
    splits = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(splits, BertPreTokenizer):
        # Where this one cuts, a character alone decides, and so it is with its normalizer.
        normalizer = tokenizer.backend_tokenizer.normalizer
        text = "a" * inside + text
        if isinstance(normalizer, BertNormalizer):
            text = normalizer.normalize_str(text)
    return splits is not None and len(splits.pre_tokenize_str(text)) > 1


def _unspelled(vocabulary: dict[str, int], letters: Callable[[str], list[str]]) -> set[int]:
    """Pieces that are one character, or have one that is not a piece in its place."""
    return {
        index
        for piece, index in vocabulary.items()
        if len(parts := letters(piece)) <= 1 or not all(part in vocabulary for part in parts)
    }


def _byte_pairs(model: dict[str, Any], tokenizer: "PreTrainedTokenizerFast") -> Pieces:
    vocabulary: dict[str, int] = model["vocab"]
    prefix = model["continuing_subword_prefix"] or ""
    suffix = model["end_of_word_suffix"] or ""
    merges = [
        (vocabulary[left], vocabulary[right], vocabulary[left + right[len(prefix) :]])
        for left, right in model["merges"]
    ]
    alphabet = {
        index
        for piece, index in vocabulary.items()
        if len(piece.removeprefix(prefix).removesuffix(suffix)) <= 1 or piece in _BYTES
    }
    first: dict[int, int] = {}
    for place, (_, _, made) in enumerate(merges):
        first.setdefault(made, place)
    # What no merge makes is never found in a text, unless it is of the alphabet.
    ranks = first | dict.fromkeys(alphabet, -1)
    order = sorted(vocabulary.values(), key=lambda index: (ranks.get(index, len(merges)), index))
    return Pieces(vocabulary, alphabet, order, merges)


def _scored_pieces(model: dict[str, Any], tokenizer: "PreTrainedTokenizerFast") -> Pieces:
    names = [piece for piece, _ in model["vocab"]]
    scores = [score for _, score in model["vocab"]]
    vocabulary = {piece: index for index, piece in enumerate(names)}
    always = _unspelled(vocabulary, list) | {vocabulary[p] for p in _BYTES if p in vocabulary}
    if model["unk_id"] is not None:
        always.add(model["unk_id"])
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    # What an unknown character costs a spelling follows from the lowest score of all.
    always.add(order[-1])

    def spelled(index: int, left: Container[int]) -> list[int]:
        text = names[index]
        best: list[tuple[float, list[int]]] = [(0.0, [])]
        for end in range(1, len(text) + 1):
            starts = range(end)
            parts = ((start, vocabulary.get(text[start:end])) for start in starts)
            ways = [
                (best[start][0] + scores[part], [*best[start][1], part])
                for start, part in parts
                if part is not None and part in left
            ]
            best.append(max(ways, default=(-inf, []), key=lambda way: way[0]))
        return best[-1][1]

    return Pieces(vocabulary, always, order, spelled=spelled)


_KINDS: dict[str, Callable[[dict[str, Any], "PreTrainedTokenizerFast"], Pieces]] = {
    "WordPiece": _word_pieces,
    "BPE": _byte_pairs,
    "Unigram": _scored_pieces,
}


class Closure:
    """Adds pieces to a set together with all that they are merged from.

    Args:
        pieces: of the tokenizer.

    Attributes:
        kept: what was added so far, closed under merges: whoever is in it has its parts in it.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.kept: set[int] = set()
        self._parts: dict[int, set[int]] = {}
        for left, right, made in pieces.merges:
            self._parts.setdefault(made, set()).update((left, right))

    def missing(self, ids: Iterable[int]) -> set[int]:
        """What has to be added for these ids to be kept, themselves included."""
        found: set[int] = set()
        waiting = [index for index in ids if index not in self.kept]
        while waiting:
            index = waiting.pop()
            if index not in found:
                found.add(index)
                waiting += [part for part in self._parts.get(index, ()) if part not in self.kept]
        return found
