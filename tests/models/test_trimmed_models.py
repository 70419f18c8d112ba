"""A model of a smaller vocabulary computes of the tokens that are left what it computed before."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from tiny_families import NUM_SPECIAL, POSITIONS, VOCAB, tiny_masked_lm
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from distilcli.models import families
from distilcli.models.families import FAMILIES, Family
from distilcli.models.saving import first_difference, save_verified
from distilcli.models.vocabulary import trim_vocabulary

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def kept_ids(model, few: bool) -> np.ndarray:
    """Special ids and every other piece; or of the special ones only that of padding.

    The last ids are those of no token: the vocabulary was rounded up.
    """
    special = [model.config.pad_token_id] if few else list(range(NUM_SPECIAL))
    return np.array([*special, *range(NUM_SPECIAL, VOCAB - 8, 2)], dtype=np.int64)


def tokenizer_of(model, kept: np.ndarray) -> PreTrainedTokenizerFast:
    """A tokenizer of as many words, which pads with what the model pads with."""
    words = {f"w{old}": new for new, old in enumerate(kept.tolist())}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w5")),
        pad_token=f"w{model.config.pad_token_id}",
        unk_token=None,
    )


def trimmed(model, few: bool = False):
    kept = kept_ids(model, few)
    return trim_vocabulary(model, kept, tokenizer_of(model, kept)), kept


def sequence(length: int, kept: np.ndarray) -> torch.Tensor:
    """New ids, padding not among them, that name every piece that is left."""
    return torch.arange(length) % (len(kept) - NUM_SPECIAL) + NUM_SPECIAL


@each_family
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("few", [False, True], ids=["as numbered", "padding moves"])
def test_hidden_states_are_those_of_the_model(family: Family, tied, few):
    """As long as there are positions: where they begin after padding, they move with it."""
    model = tiny_masked_lm(family, tie_word_embeddings=tied).double()
    families.settle_ties(model)
    before = deepcopy(model)
    smaller, kept = trimmed(model, few)
    assert first_difference(model, before) is None
    assert families.num_positions(smaller.config) == families.num_positions(model.config)
    ids = sequence(POSITIONS, kept)
    with torch.no_grad():
        old, new = (
            one(input_ids=row[None], output_hidden_states=True)
            for one, row in ((model, torch.from_numpy(kept)[ids]), (smaller, ids))
        )
    for one, other in zip(new.hidden_states, old.hidden_states, strict=True):
        assert torch.equal(one, other)
    # The same rows; a product with fewer of them may be added up in another order.
    logits = old.logits[..., torch.from_numpy(kept)]
    torch.testing.assert_close(new.logits, logits, rtol=1e-13, atol=1e-13)


@each_family
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_rows_are_those_of_the_tokens_that_are_left(family: Family, tied):
    model = tiny_masked_lm(family, tie_word_embeddings=tied)
    families.settle_ties(model)
    smaller, kept = trimmed(model)
    projection, old = families.decoder(smaller), families.decoder(model)
    words = smaller.get_input_embeddings()
    assert torch.equal(words.weight, model.get_input_embeddings().weight[kept])
    assert torch.equal(projection.weight, old.weight[kept])
    assert (projection.weight is words.weight) == (
        old.weight is model.get_input_embeddings().weight
    )
    assert smaller.config.tie_word_embeddings == tied
    for name in family.vocabulary_head.biases:
        assert torch.equal(smaller.get_parameter(name), model.get_parameter(name)[kept])
    assert smaller.config.vocab_size == words.num_embeddings == len(kept)
    assert words.padding_idx in (smaller.config.pad_token_id, None)


@each_family
def test_its_special_tokens_are_those_of_the_model(family: Family):
    """By their new ids; a default that names no token that is left names none."""
    ids = {"pad_token_id": 3, "bos_token_id": 7, "eos_token_id": 8, "cls_token_id": None}
    model = tiny_masked_lm(family, **ids)
    kept = np.array([3, 4, 5, 7, 9])
    found = trim_vocabulary(model, kept, tokenizer_of(model, kept)).config
    assert (found.pad_token_id, found.bos_token_id, found.eos_token_id) == (0, 3, None)
    assert getattr(found, "cls_token_id", None) is None


@each_family
def test_a_smaller_model_is_saved_and_loaded_by_the_plain_auto_class(family: Family, tmp_path):
    smaller, kept = trimmed(tiny_masked_lm(family), few=True)
    save_verified(smaller, tokenizer_of(tiny_masked_lm(family), kept), tmp_path / "model")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert first_difference(loaded, smaller) is None
    ids = sequence(9, kept)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, smaller(input_ids=ids).logits)
