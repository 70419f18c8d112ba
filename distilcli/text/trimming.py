"""Smaller vocabularies: choosing the pieces of a tokenizer to keep, and the tokenizer of those."""

import heapq
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from distilcli.errors import ConfigError, ModelError
from distilcli.files.json_text import to_json
from distilcli.text.pieces import Closure, Pieces, pieces_of
from distilcli.text.tokenizers import backend_tree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TOKENIZER = "tokenizer.json"
# Attributes that a program may have set, which transformers does not save then.
_SETTINGS = ("model_input_names", "model_max_length", "padding_side", "truncation_side")


def choose_pieces(
    tokenizer: "PreTrainedTokenizerFast",
    counts: Int64[np.ndarray, " vocab"] | None,
    *,
    keep: int | None,
    min_count: int,
) -> Int64[np.ndarray, " kept"]:
    """The ids of the pieces that a smaller vocabulary keeps, in ascending order.

    Special and added tokens stay, and so does what every text that the tokenizer knows can be
    spelled with: the characters, or the 256 bytes. Of a BPE the parts of every kept piece stay,
    too. Whatever fits of the rest is chosen by counts, or in the order of the tokenizer itself: a
    BPE's order of merges, a Unigram's order of scores, a WordPiece's order of ids.

    Args:
        tokenizer: with the full vocabulary.
        counts: how often each id occurs in the text; None: there is no text. Where a piece is
            removed, its occurrences count for those that its words are spelled with then.
        keep: the most ids of the new vocabulary, those that always stay included; as many as there
            are, or more, keep all; None: as many as occur.
        min_count: occurrences that a piece needs; without counts none does.

    Raises:
        ConfigError: `keep` is smaller than what always stays.
        ModelError: the tokenizer's model cannot spell a word with smaller pieces.
    """
    return PieceChoice(tokenizer, counts, min_count).of_size(keep)


class PieceChoice:
    """The pieces of a tokenizer in the order in which they are kept: `choose_pieces`, at any size.

    Args:
        tokenizer: with the full vocabulary.
        counts: as `choose_pieces` has them.
        min_count: of these.

    Raises:
        ModelError: the tokenizer's model cannot spell a word with smaller pieces.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        counts: Int64[np.ndarray, " vocab"] | None,
        min_count: int,
    ) -> None:
        self._name = tokenizer.name_or_path
        self._pieces = pieces_of(tokenizer)
        self._order = self._pieces.order
        if counts is not None:
            self._order = _by_count(self._pieces, counts, min_count)

    def of_size(self, keep: int | None) -> Int64[np.ndarray, " kept"]:
        """The ids of at most so many pieces; see `choose_pieces`, ConfigError included."""
        closure = Closure(self._pieces)
        closure.kept = closure.missing(self._pieces.always)
        if keep is not None and keep < len(closure.kept):
            raise ConfigError(
                f"student.vocabulary.keep {keep:,}: the special tokens and single characters of "
                f"the tokenizer of {self._name} are {len(closure.kept):,}",
                f"Set student.vocabulary.keep to {len(closure.kept)} or more.",
            )
        for index in self._order:
            if keep is not None and len(closure.kept) == keep:
                break
            missing = closure.missing([index])
            if keep is None or len(closure.kept) + len(missing) <= keep:
                closure.kept |= missing
        return np.array(sorted(closure.kept), dtype=np.int64)


def _by_count(pieces: Pieces, counts: Int64[np.ndarray, " vocab"], min_count: int) -> list[int]:
    """The ids that occur often enough, in the order in which they are worth keeping.

    The rarest is removed first, and the pieces that its words are spelled with then occur more
    often. What a piece is worth is how often it occurs when it is the rarest one left.
    """
    found = dict.fromkeys(pieces.order, 0) | dict(enumerate(counts.tolist()))
    worth = _merged_counts(pieces, found) if pieces.merges else _spelled_counts(pieces, found)
    wanted = [index for index in pieces.order if worth.get(index, 0) >= min_count]
    return sorted(wanted, key=lambda index: -worth[index])  # stable: ties as they were


def _merged_counts(pieces: Pieces, found: dict[int, int]) -> dict[int, int]:
    """Of a BPE: a piece is the rarest one left when all that is merged from it is gone."""
    made: dict[int, tuple[int, int]] = {}
    for left, right, index in pieces.merges:
        made.setdefault(index, (left, right))
    # The last learnt first, so that a part has all of its own counts before it hands them on.
    for index, parts in reversed(made.items()):
        for part in parts:
            found[part] += found[index]
    return found


def _spelled_counts(pieces: Pieces, found: dict[int, int]) -> dict[int, int]:
    """Of other models: what is removed adds its count to the pieces that it is spelled with."""
    places = {index: place for place, index in enumerate(pieces.order)}
    # Of those that are equally rare, the tokenizer keeps the first ones.
    waiting = [
        (found[index], -places[index], index)
        for index in pieces.order
        if index not in pieces.always and found[index] > 0
    ]
    left = pieces.always | {index for _, _, index in waiting}
    heapq.heapify(waiting)
    while waiting:
        count, place, index = heapq.heappop(waiting)
        if count < found[index]:  # it has become more frequent meanwhile
            heapq.heappush(waiting, (found[index], place, index))
            continue
        left.discard(index)
        for part in pieces.spelled(index, left):
            found[part] += count
    return found


def trim_tokenizer(
    tokenizer: "PreTrainedTokenizerFast", kept: Int64[np.ndarray, " kept"]
) -> "PreTrainedTokenizerFast":
    """The same tokenizer with fewer pieces, numbered from 0 in the order of their old ids.

    It reads a text as the other one does: a text all of whose pieces are kept gets the same ones.
    It is saved and loaded as any tokenizer, and has the class of the other one where that class
    builds the same from its files.

    Args:
        tokenizer: with the full vocabulary.
        kept: from `choose_pieces`.

    Raises:
        ModelError: transformers does not load what was saved as it is.
    """
    from transformers import PreTrainedTokenizerFast

    vocabulary = tokenizer.get_vocab()
    new_ids = {old: new for new, old in enumerate(kept.tolist())}
    tree = _trimmed(backend_tree(tokenizer), new_ids)
    expected = {token: new_ids[old] for token, old in vocabulary.items() if old in new_ids}
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save_pretrained(name)
        (Path(name) / _TOKENIZER).write_text(to_json(tree), encoding="utf-8")
        # A class may make its model anew, with some ids written in its code.
        for tokenizer_class in (type(tokenizer), PreTrainedTokenizerFast):
            trimmed: PreTrainedTokenizerFast = tokenizer_class.from_pretrained(name)
            if backend_tree(trimmed) == tree and trimmed.get_vocab() == expected:
                break
        else:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} cannot be trimmed: transformers loads "
                "something else than was saved",
                "Use it as it is.",
            )
    for setting in _SETTINGS:
        setattr(trimmed, setting, getattr(tokenizer, setting))
    trimmed.name_or_path = tokenizer.name_or_path
    return trimmed


def _trimmed(tree: dict[str, Any], new_ids: dict[int, int]) -> dict[str, Any]:
    """The JSON tree of a tokenizer with these ids alone, under their new numbers."""
    added = [token | {"id": new_ids[token["id"]]} for token in tree["added_tokens"]]
    model = dict(tree["model"])
    if isinstance(model["vocab"], dict):
        pieces = model["vocab"]
        model["vocab"] = {p: new_ids[index] for p, index in pieces.items() if index in new_ids}
    else:  # Unigram: pieces with their scores, at the places of their ids
        model["vocab"] = [p for index, p in enumerate(model["vocab"]) if index in new_ids]
        model["unk_id"] = new_ids.get(model["unk_id"])
    if "merges" in model:
        start = len(model["continuing_subword_prefix"] or "")
        known = model["vocab"]
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if left in known and right in known and left + right[start:] in known
        ]
    post = _renumbered(tree["post_processor"], new_ids)
    return tree | {"added_tokens": added, "model": model, "post_processor": post}


def _renumbered(post: Any, new_ids: dict[int, int]) -> Any:
    """A post-processor, which places special tokens, with their new ids."""
    if not post:
        return post
    post = dict(post)
    if "processors" in post:
        post["processors"] = [_renumbered(one, new_ids) for one in post["processors"]]
    if post["type"] == "TemplateProcessing":
        post["special_tokens"] = {
            name: token | {"ids": [new_ids[index] for index in token["ids"]]}
            for name, token in post["special_tokens"].items()
        }
    for name in ("cls", "sep"):
        if name in post:
            token, index = post[name]
            post[name] = [token, new_ids[index]]
    return post
