"""What must hold between a tokenizer, a model and a text, whatever command brings them together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distilcli.errors import DataError, ModelError
from distilcli.hub.model_files import short

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = ("cls_token", "sep_token", "mask_token", "pad_token")
# Share of a text's tokens that its tokenizer does not know: a few percent are emoji and foreign
# script; above half it is not the tokenizer of this text.
MUCH_UNKNOWN = 0.03
MOSTLY_UNKNOWN = 0.5


def check_special_tokens(
    tokenizer: "PreTrainedTokenizerBase", name: str, needs: Sequence[str] = SPECIAL_TOKENS
) -> None:
    """Refuse a tokenizer that lacks a token that is needed, or cannot tell [MASK] apart.

    Args:
        tokenizer: of a model.
        name: of the model.
        needs: the tokens; where [MASK] is not among them, nothing is asked of it.

    Raises:
        ModelError: which token is missing or taken; its message opens with `name`.
    """
    hint = "Use the tokenizer that the model was trained with, with its own special tokens."
    missing = [token for token in needs if getattr(tokenizer, token) is None]
    if missing:
        raise ModelError(f"{name}: its tokenizer has no {', '.join(missing)}", hint)
    if "mask_token" not in needs:
        return
    mask = str(tokenizer.mask_token)
    name_of_mask = f"mask_token {short(mask)!r}"
    others = [token for token in (*SPECIAL_TOKENS, "unk_token") if token != "mask_token"]
    for other in others:
        if tokenizer.mask_token_id == getattr(tokenizer, f"{other}_id"):
            raise ModelError(f"{name}: its {name_of_mask} is its {other}, too", hint)
    # A token that a text may hold, such as "the", "." or "##s", is not one that hides another.
    is_marked = any(map(str.isalpha, mask)) and not mask.isalnum() and not mask.startswith("##")
    if not is_marked:
        raise ModelError(f"{name}: its {name_of_mask} is one that ordinary text may hold", hint)


def check_tokens(tokenizer: "PreTrainedTokenizerBase", vocab_size: int, where: str) -> None:
    """Refuse a model that has no embedding for some token of its tokenizer.

    Args:
        tokenizer: of the model's texts.
        vocab_size: embeddings that the model has.
        where: names the model, and opens the message.

    Raises:
        ModelError: naming a special token that it lacks, or else the last token.
    """
    specials = {str(token): index for token, index in _special_ids(tokenizer).items()}
    lacking = {token: index for token, index in specials.items() if index >= vocab_size}
    if not lacking:
        vocabulary = tokenizer.get_vocab()
        token = max(vocabulary, key=vocabulary.__getitem__)
        lacking = {token: vocabulary[token]} if vocabulary[token] >= vocab_size else {}
    for token, index in lacking.items():
        raise ModelError(
            f"{where}: its vocabulary has {vocab_size} tokens, but {short(token)} of the tokenizer "
            f"of {tokenizer.name_or_path} has the id {index}",
            "Use the tokenizer that was saved with the model.",
        )


def _special_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    names = (*SPECIAL_TOKENS, "unk_token")
    found = {getattr(tokenizer, name): getattr(tokenizer, f"{name}_id") for name in names}
    return {str(token): int(index) for token, index in found.items() if index is not None}


def unknown_share(token_counts: np.ndarray, tokenizer: "PreTrainedTokenizerBase") -> float:
    """Share of [UNK] among the tokens of a text, without [CLS], [SEP] and [PAD].

    Args:
        token_counts: how often each id occurs, int [ids].
        tokenizer: that made them; 0 where it knows every text (it has no [UNK]).
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown >= len(token_counts):
        return 0.0
    around = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    number = int(token_counts.sum()) - sum(
        int(token_counts[index]) for index in around if index < len(token_counts)
    )
    return int(token_counts[unknown]) / max(number, 1)


def unknown_warning(share: float, tokenizer: "PreTrainedTokenizerBase") -> str:
    """What to tell a user about a share of [UNK]; empty where it is small."""
    if share <= MUCH_UNKNOWN:
        return ""
    return (
        f"{share:.1%} of the tokens are unknown ({tokenizer.unk_token}): the tokenizer of "
        f"{tokenizer.name_or_path} does not know this text (its language, its script, or whether "
        "it is lower-cased)"
    )


def refuse_unknown(share: float, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a text of which most is unknown.

    Raises:
        DataError: over half of the tokens are [UNK].
    """
    if share > MOSTLY_UNKNOWN:
        raise DataError(
            unknown_warning(share, tokenizer),
            "Use the model of this language, and its own tokenizer_config.json (do_lower_case).",
        )
