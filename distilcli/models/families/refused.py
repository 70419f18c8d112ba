"""Architectures that people try and this package cannot use, and why.

What stands in no table is refused all the same, with the list of those that can be used.
"""

# By model type in config.json; a reason goes on after `its model_type is ...,`.
REFUSED = {
    "albert": "whose layers share one set of weights: there are no single layers to copy, and a "
    "model with fewer of them is not smaller",
    "deberta": "whose attention has terms for relative positions, which attention over packed "
    "sequences does not compute",
    "deberta-v2": "whose attention has terms for relative positions, which attention over packed "
    "sequences does not compute; DeBERTa-v3 moreover learnt to tell which tokens were replaced, "
    "and its checkpoints have no masked-LM head",
    "mpnet": "whose attention adds a number for the distance of two tokens over all of a row, in "
    "code of transformers that attention over packed sequences cannot take the place of",
    "xlnet": "which predicts tokens in changing orders and has no masked-LM head",
    "t5": "which has an encoder and a decoder, and no masked-LM head",
    "longformer": "whose attention is sparse, which attention over packed sequences is not",
    "big_bird": "whose attention is sparse, which attention over packed sequences is not",
}
_DECODER = "which predicts the next token and sees none after it; a masked-LM sees both sides"


def why_refused(model_type: str) -> str | None:
    """The reason why models of a type cannot be used; None: this package does not know the type."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if model_type in REFUSED:
        return REFUSED[model_type]
    predicts_the_next = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    is_decoder = predicts_the_next and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return _DECODER if is_decoder else None
