"""How texts become sequences: what of the tokenizer and of the settings that depends on."""

import json
from dataclasses import dataclass
from typing import Any

from distilcli.corpus.word_cache import SPLITS_AT_WHITESPACE, spans_spaces, splits_at_spaces


@dataclass(frozen=True)
class Recipe:
    """How texts become sequences; picklable, for worker processes.

    Attributes:
        backend: the fast tokenizer as JSON, without truncation and padding.
        continuations: ids of tokens that go on with a word; None when the vocabulary does not tell.
        splits_at_whitespace: so that tokenising line by line changes nothing.
        word_by_word: so that the tokens of a word can be looked up.
        held_out_fraction: share of documents that the hash of their text keeps out of training.
        teacher: how the teacher reads the same texts, if its tokens are kept beside these.
    """

    backend: str
    cls_token_id: int
    sep_token_id: int
    continuations: frozenset[int] | None
    splits_at_whitespace: bool
    word_by_word: bool
    max_length: int
    min_length: int
    held_out_fraction: float
    teacher: "Recipe | None" = None


def continuation_ids(backend: dict[str, Any]) -> frozenset[int] | None:
    """Ids of tokens that go on with a word, for a WordPiece tokenizer; None for others."""
    model = backend["model"]
    prefix = model.get("continuing_subword_prefix")
    if model.get("type") != "WordPiece" or not prefix:
        return None
    added = {token["id"] for token in backend["added_tokens"]}
    ids = (index for token, index in model["vocab"].items() if token.startswith(prefix))
    return frozenset(ids) - added


def make_recipe(
    backend: str,
    special_ids: tuple[int, int],
    lengths: tuple[int, int],
    held_out_fraction: float,
) -> Recipe:
    """A recipe whose properties of the tokenizer are read off its JSON.

    Args:
        backend: JSON of the fast tokenizer, as `text.tokenizers.text_backend` has it.
        special_ids: of [CLS] and [SEP].
        lengths: longest and shortest sequence, in tokens with [CLS] and [SEP].
        held_out_fraction: share of documents to keep out of training.
    """
    tree = json.loads(backend)
    splits_at_whitespace = (tree["pre_tokenizer"] or {}).get(
        "type"
    ) in SPLITS_AT_WHITESPACE and not spans_spaces(tree["added_tokens"])
    continuations = continuation_ids(tree) if splits_at_whitespace else None
    return Recipe(
        backend=backend,
        cls_token_id=special_ids[0],
        sep_token_id=special_ids[1],
        continuations=continuations,
        splits_at_whitespace=splits_at_whitespace,
        word_by_word=continuations is not None and splits_at_spaces(tree),
        max_length=lengths[0],
        min_length=lengths[1],
        held_out_fraction=held_out_fraction,
    )
