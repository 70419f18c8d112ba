"""The same model with fewer tokens: rows of its embeddings and of its decoder are left out."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn
from transformers import PreTrainedTokenizerFast

from distilcli.models.copying import seeded
from distilcli.models.families import (
    MaskedLM,
    decoder,
    encoder,
    family_of,
    is_masked_lm,
    made_anew,
    settle_ties,
)


def trim_vocabulary(
    model: MaskedLM, kept: Int64[np.ndarray, " kept"], tokenizer: PreTrainedTokenizerFast
) -> MaskedLM:
    """The same model for the tokens that a smaller vocabulary keeps, in eval mode.

    Hidden states of a text of these tokens are those of the model, to the last bit, and the logits
    of these tokens are products with the same rows. A decoder that is not the word embeddings stays
    a matrix of its own. Rows that no token of the tokenizer has, as in a vocabulary that was
    rounded up, are not kept.

    Args:
        model: of the full vocabulary; it is left as it is.
        kept: the old id of each token, ascending, from `choose_pieces`.
        tokenizer: with the new ids, from `trim_tokenizer`.
    """
    assert len(tokenizer) == len(kept), "the tokenizer is another one's"
    family = family_of(model)
    config = _renumbered(model, kept, tokenizer)
    first, new_first = family.first_position(model.config), family.first_position(config)
    weights = dict(model.state_dict())
    rows = torch.from_numpy(kept)
    for name in _names_of_rows(model) & weights.keys():
        weights[name] = weights[name].index_select(0, rows.to(weights[name].device))
    if family.embeddings.positions is not None and first != new_first:
        # Positions are counted from padding on, whose number is another now.
        config.max_position_embeddings -= first - new_first
        table = encoder(model).get_submodule(family.embeddings.positions)
        positions = next(name for name, one in model.named_modules() if one is table) + ".weight"
        weights[positions] = weights[positions][first - new_first :]
    with seeded(0):  # every weight is overwritten; this keeps the global random state
        smaller: MaskedLM = made_anew(model, config)
    nn.Module.to(smaller, dtype=model.dtype)
    smaller.load_state_dict(weights, strict=True)
    if is_masked_lm(smaller):
        settle_ties(smaller)
    smaller.train(False)
    return smaller


def _names_of_rows(model: MaskedLM) -> set[str]:
    """Names of the weights that have a row or a number for each token."""
    modules = [model.get_input_embeddings(), *([decoder(model)] if is_masked_lm(model) else [])]
    named = {name for name, module in model.named_modules() if module in modules}
    return {f"{name}.weight" for name in named} | set(family_of(model).vocabulary_head.biases)


def _renumbered(
    model: MaskedLM, kept: Int64[np.ndarray, " kept"], tokenizer: PreTrainedTokenizerFast
) -> Any:
    """The model's configuration, with the new ids of its special tokens."""
    new_ids = {old: new for new, old in enumerate(kept.tolist())}
    config: Any = type(model.config).from_dict(model.config.to_dict())
    config.vocab_size = len(kept)
    if is_masked_lm(model):
        config.tie_word_embeddings = decoder(model).weight is model.get_input_embeddings().weight
    for key, value in model.config.to_dict().items():
        if key.endswith("_token_id") and isinstance(value, int):
            # One that is not kept is no token of the tokenizer: a default that nobody changed.
            other = getattr(tokenizer, key, None)
            setattr(config, key, new_ids.get(value, other))
    return config


def bytes_of_a_token(model: MaskedLM) -> int:
    """Bytes that one more token would add to a model: its rows; a tied one counts once."""
    rows = [one[0] for name, one in model.named_parameters() if name in _names_of_rows(model)]
    return sum(row.numel() * row.element_size() for row in rows)
