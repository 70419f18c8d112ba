"""Tokenizers: loaded in one place, and one rule for what written words are tokens by name."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from distilcli.errors import DataError, ModelError
from distilcli.files.json_text import check_encodable, to_json
from distilcli.hub.model_files import (
    CONFIG,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    first_line,
    model_files,
)
from distilcli.text.tokenizer_checks import SPECIAL_TOKENS, check_special_tokens
from distilcli.text.tokenizer_files import (
    check_files,
    check_is_no_python_code,
    check_vocabulary_was_read,
    what_to_load,
)

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


def after_spaces(tree: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer for words of a list, which stand after a space in a text.

    A tokenizer that keeps spaces, as bytes or as a marker, has other tokens for a word after a
    space than for one at the start of a text: without this, every word of a list would look as if
    a text began with it. Metaspace marks each word of a list by itself.

    Args:
        tree: JSON tree of a fast tokenizer.
    """
    reader = tree["pre_tokenizer"]
    if reader and reader["type"] == "ByteLevel":
        return tree | {"pre_tokenizer": reader | {"add_prefix_space": True}}
    normalizer = tree["normalizer"]
    changes = normalizer_steps(normalizer)
    keeps_spaces = any(step["type"] == "ByteLevel" for step in pre_tokenizer_steps(reader))
    if not keeps_spaces and not space_marker(changes):
        return tree
    space = {"type": "Prepend", "prepend": " "}
    return tree | {"normalizer": {"type": "Sequence", "normalizers": [space, *changes]}}


def pre_tokenizer_steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer, or those that a sequence is made of; JSON trees."""
    return [] if part is None else part.get("pretokenizers", [part])


def normalizer_steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer, or those that a sequence is made of; JSON trees."""
    return [] if part is None else part.get("normalizers", [part])


def space_marker(normalizers: list[dict[str, Any]]) -> str:
    """What normalizers turn a space into, if it is not white space; else nothing."""
    for step in normalizers:
        if step["type"] == "Replace" and step["pattern"] == {"String": " "}:
            return str(step["content"]).strip()
    return ""


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


def special_ids(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Ids of all special tokens, also of those that have no role, such as a decoder's end of text.

    transformers counts only those with a role among `all_special_ids`.
    """
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(index for index, one in added if one.special)})


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
        tree = text_backend(tokenizer)
        self._fast, self._of_words = (
            PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer.from_str(to_json(backend)),
                truncation_side=tokenizer.truncation_side,
            )
            for backend in (tree, after_spaces(tree))
        )

    def __call__(
        self, *columns: Any, is_split_into_words: bool = False, **options: Any
    ) -> "BatchEncoding":
        """Token ids of texts, pairs of texts or lists of words; the options of transformers."""
        fast = self._of_words if is_split_into_words else self._fast
        with naming_the_tokenizer():
            encoded: BatchEncoding = fast(
                *columns, is_split_into_words=is_split_into_words, **options
            )
        return encoded


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Hash of what a fast tokenizer does to text, and of its special ids; hexadecimal.

    Truncation and padding, which calls switch on and off, do not matter.
    """
    backend = backend_tree(tokenizer)
    special_ids = [getattr(tokenizer, f"{name}_id") for name in SPECIAL_TOKENS]
    reading = reading_of_special_tokens(tokenizer)
    identity = [backend, special_ids, *([reading] if reading else [])]
    return _digest(to_json(identity, sort_keys=True))


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def load_tokenizer(
    name: str, revision: str | None = None, needs: Sequence[str] = SPECIAL_TOKENS
) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of a model.

    Args:
        name: folder, hub name or `builtin:NAME`.
        revision: of the hub: commit, tag or branch.
        needs: the special tokens that it must have.

    Raises:
        ModelError: there is none, no fast one can be made of its files, it lacks what it `needs`,
            or has another token for [MASK].
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = model_files(name, revision, f"tokenizer of {name}")
    for json_file in (CONFIG, TOKENIZER_CONFIG):  # our words for what is wrong with these
        files.json_object(json_file)
    folder = files.folder_of((CONFIG, *TOKENIZER_FILES))
    check_files(folder, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        _try_out(tokenizer)
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            check_special_tokens(tokenizer, name, needs)
    except ModelError:
        raise
    except Exception as error:  # hub, file and JSON errors share no base class
        check_is_no_python_code(folder, name)  # which may need packages that would not help
        raise ModelError(
            f"{name}: its tokenizer cannot be loaded ({first_line(error)})",
            what_to_load(folder),
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        check_is_no_python_code(folder, name)
        raise ModelError(f"{name}: its tokenizer is not a fast one", "A tokenizer.json is needed.")
    check_vocabulary_was_read(tokenizer, folder, name)
    tokenizer.name_or_path = name  # not where it lies on this machine: the manifest keeps the name
    return tokenizer


def _try_out(tokenizer: Any) -> None:
    """Ask for what is needed later: some files load, and fail only when they are used or saved."""
    for token in (*SPECIAL_TOKENS, "unk_token"):
        getattr(tokenizer, f"{token}_id")
    check_encodable(tokenizer.init_kwargs)  # which are saved beside every student
