"""Texts to tokens, as a recipe says: word by word where words can be looked up."""

from tokenizers import Encoding, Tokenizer

from distilcli.corpus.recipe import Recipe
from distilcli.corpus.word_cache import Words
from distilcli.text.tokenizers import naming_the_tokenizer

# The tokens of a text, and the encoding that tells their words; without it the vocabulary does.
Read = tuple[list[int], Encoding | None]


class TextReader:
    """Tokenises texts in one thread or, where the environment allows it, in several.

    Args:
        recipe: of the student, or of its teacher.
        with_encodings: give the encodings even if the vocabulary tells words.
    """

    def __init__(self, recipe: Recipe, with_encodings: bool = False) -> None:
        self._recipe = recipe
        self._with_encodings = with_encodings or recipe.continuations is None
        self._tokenizer = Tokenizer.from_str(recipe.backend)
        self._words = Words(self._tokenizer)

    def __call__(self, texts: list[str]) -> list[Read]:
        """The tokens of each text, without special ones.

        Raises:
            DataError: the tokenizer gives up on a text.
        """
        with naming_the_tokenizer():
            if self._with_encodings:
                encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
                return [(encoding.ids, encoding) for encoding in encodings]
            if self._recipe.word_by_word:
                return [(ids, None) for ids in self._words.ids(texts)]
            fast = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            return [(encoding.ids, None) for encoding in fast]
