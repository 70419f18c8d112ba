"""The pieces of a WordPiece, the same in every process: those of the trainer come in no order."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer

_LONGEST = 6  # characters of a learnt piece


def learn_word_pieces(
    backend: Tokenizer, texts: Iterable[str], size: int, specials: list[str]
) -> dict[str, int]:
    """Special tokens, all characters alone and within a word, and the commonest longer pieces.

    Args:
        backend: its normalizer and pre-tokenizer find the words.
        texts: learnt from.
        size: of the vocabulary, at most.
        specials: have the first ids.
    """
    words: Counter[str] = Counter()
    for text in texts:
        normalized = backend.normalizer.normalize_str(text)
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized))
    letters = {
        ("##" if place else "") + letter for word in words for place, letter in enumerate(word)
    }
    pieces: Counter[str] = Counter()
    for word, number in words.items():
        for start in range(len(word)):
            for end in range(start + 2, min(len(word), start + _LONGEST) + 1):
                pieces[("##" if start else "") + word[start:end]] += number
    longer = sorted(pieces.keys() - letters, key=lambda piece: (-pieces[piece], piece))
    found = [*specials, *sorted(letters - set(specials)), *longer]
    return {piece: index for index, piece in enumerate(dict.fromkeys(found[:size]))}
