"""One rule for every text, of a corpus or of a task: which written words are tokens by name.

The five control tokens (cls, sep, pad, mask, unk) written in a text are text: only this package
places them. Tokens that were added to a tokenizer for its texts, such as <url>, are tokens, whether
they were added as special ones or not.

Neither `encode_special_tokens` of tokenizers nor `split_special_tokens` of transformers says this:
both read added special tokens as text, too, and neither hides a control token from a model that
looks up whole words. So control tokens get names here that no text has; their ids stay.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from distilcli.errors import DataError
from distilcli.json_text import to_json

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast

CONTROL_TOKENS = ("cls_token", "sep_token", "pad_token", "mask_token", "unk_token")
_MAX_REASON = 200  # characters of what a tokenizer says
_NO_CHARACTER = "\uffff"  # Unicode keeps this code point from ever being one


def backend_tree(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    """The JSON tree of a fast tokenizer, without the truncation and padding of earlier calls."""
    tree: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return tree | {"truncation": None, "padding": None}


def text_backend(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    """The JSON tree of a fast tokenizer that reads texts by the rule of this module."""
    tree = backend_tree(tokenizer)
    control = _control_tokens(tokenizer)

    def name(token: str) -> str:
        return _NO_CHARACTER + token if token in control else token

    model = tree["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {name(token): index for token, index in model["vocab"].items()}
    else:  # Unigram: pieces with their scores
        model["vocab"] = [[name(piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = name(model["unk_token"])
    # Kept, so that the ids of the tokens added after them stay what they are.
    for token in tree["added_tokens"]:
        token["content"] = name(token["content"])
    return tree


def reading_of_special_tokens(tokenizer: "PreTrainedTokenizerFast") -> list[str]:
    """What a tokenizer's fingerprint has to say of this rule.

    Empty where `encode_special_tokens` reads alike: where the only special tokens are control
    tokens, and they have punctuation, which the tokenizer cuts off. What was tokenised before this
    rule is right for such a tokenizer.
    """
    tree = backend_tree(tokenizer)
    special = {token["content"] for token in tree["added_tokens"] if token["special"]}
    added = sorted(special - _control_tokens(tokenizer))
    cuts_punctuation = (tree["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
    return added if cuts_punctuation else ["control tokens are text", *added]


def _control_tokens(tokenizer: "PreTrainedTokenizerFast") -> set[str]:
    names = (getattr(tokenizer, name) for name in CONTROL_TOKENS)
    return {str(name) for name in names if name is not None}


@contextmanager
def naming_the_tokenizer() -> Iterator[None]:
    """During the block a tokenizer reads texts; where its own code gives up, say so.

    A panic of Rust is no `Exception`, and cannot be sent from one process to another.

    Raises:
        DataError: instead of a panic, such as that of a regular expression that takes too long.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:_MAX_REASON]
        raise DataError(
            f"the tokenizer gives up on a text ({reason})",
            "Simplify the regular expressions in its tokenizer.json, or use another tokenizer.",
        ) from None


class TextTokenizer:
    """Tokenises texts by the rule of this module; called as a tokenizer of transformers is.

    Args:
        tokenizer: whose ids are given.

    Attributes:
        cls_token_id: of the token before every input.
        sep_token_id: of the token after every text.
        unk_token_id: of what the vocabulary does not have.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        from transformers import PreTrainedTokenizerFast

        self.cls_token_id: int = tokenizer.cls_token_id
        self.sep_token_id: int = tokenizer.sep_token_id
        self.unk_token_id: int = tokenizer.unk_token_id
        self._fast = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(to_json(text_backend(tokenizer))),
            truncation_side=tokenizer.truncation_side,
        )

    def __call__(self, *columns: Any, **options: Any) -> "BatchEncoding":
        """Token ids of texts, pairs of texts or lists of words; the options of transformers."""
        with naming_the_tokenizer():
            encoded: BatchEncoding = self._fast(*columns, **options)
        return encoded
