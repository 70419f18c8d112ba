"""How much text each token stands for, by which losses of other vocabularies are compared."""

import pytest
from byte_level import byte_level_tokenizer
from tiny_experiments import word_tokenizer

from distilcli.distillation.measured_text import characters_of


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (word_tokenizer(), {"ba": 2, "b": 1, "##b": 1, "covid19": 7, "caf\u00e9": 4}),
        # A piece is of bytes, the space before a word among them.
        (byte_level_tokenizer(), {"\u0120": 1, "b": 1, "covid19": 7, "caf\u00e9": 5}),
    ],
    ids=["characters", "bytes"],
)
def test_a_token_is_of_as_much_text_as_it_is_found_in(tokenizer, expected):
    """Added tokens, too."""
    tokenizer.add_tokens(["covid19", "caf\u00e9"])
    found = characters_of(tokenizer)
    assert len(found) == len(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(list(expected))
    assert found[ids].tolist() == list(expected.values())
