"""Inputs of tasks as lists, and words for them that a tiny tokenizer cuts in every way."""

from itertools import pairwise

from hypothesis import strategies as st
from tiny_tasks import pair_tokenizer

TOKENIZER = pair_tokenizer()
UNK, CLS, SEP = (TOKENIZER.convert_tokens_to_ids(name) for name in ("[UNK]", "[CLS]", "[SEP]"))


def rows_of(inputs, of="token_ids"):
    """The tokens, or their types, of each input."""
    ends = inputs.offsets.tolist()
    return [getattr(inputs, of)[begin:end].tolist() for begin, end in pairwise(ends)]


def positions_of(inputs):
    ends = inputs.output_offsets.tolist()
    return [inputs.output_positions[begin:end].tolist() for begin, end in pairwise(ends)]


def pieces_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


# Of one token, of several, one that the vocabulary cannot spell, with punctuation, in capitals.
SPELT = ["ba", "be", "BI", "fo", "gu", "xyz", "babe", "9", "\u00e9", "du.", "(ka"]


def word_lists(words, max_size=40):
    """Lists of all sizes, where plain ones would mostly be short."""
    sizes = st.integers(1, max_size)
    return sizes.flatmap(lambda n: st.lists(st.sampled_from(words), min_size=n, max_size=n))
