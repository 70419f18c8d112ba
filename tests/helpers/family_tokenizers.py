"""The kind of tokenizer that the models of each family have, learnt from a few lines.

Each is made with `tokenizers` and written as transformers writes the one of a real model.
"""

import math
from base64 import b64decode
from collections import Counter
from collections.abc import Callable

from byte_level import byte_level_tokenizer
from every_tokenizer import charsmap
from tiny_experiments import SPECIALS, documents
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import NFC, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    BertTokenizer,
    CamembertTokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)
from word_pieces import learn_word_pieces

_NORMALIZED = b64decode(charsmap())  # by SentencePiece: which characters become others
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = ".,'-:()0123456789"
# What a writer may put into a text, of any language: a line each.
AWKWARD = [
    "  ba  be\tbi   bo ",
    "BA Be, bI-bo: ba'be (bu) 1990 3.14",
    "b\u00e0 be\u0301 \ufb01 \u01c6 \u0130",  # accents, ligatures
    "\u4f60\u597d ba\u3002 \u3053\u3093 \u0e44\u0e17\u0e22",  # scripts without spaces
    "ba\u00a0be\u2009bi\u3000bo\u200bbu",  # spaces
    "ba\u2028be\u0085bi\u000bbo\u000cbu\u001cba",  # what may end a line
    "be \U0001f600\U0001f468\u200d\U0001f469 \u2603\ufe0f",  # emoji
    "ba \u2581be __ ##ba \u0120bo",  # marks that tokenizers have of their own
    "ba\u0000be\u0007 \ufffd bi",  # control characters
    "ba" * 60,  # longer than the words that WordPiece takes
]


def lines() -> list[str]:
    """What tokenizers are learnt from."""
    return [*documents(100), *LETTERS, *SIGNS]


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's: lower case, pieces that go on with a word marked by ##."""
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    return BertTokenizer(vocab=learn_word_pieces(backend, lines(), 130, SPECIALS))


def byte_level_of_modernbert() -> PreTrainedTokenizerFast:
    """ModernBERT's: BERT's special tokens at the end, and runs of spaces as tokens of their own."""
    backend = Tokenizer(BPE())
    backend.normalizer = NFC()
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(lines(), trainer)
    backend.add_tokens([AddedToken(" " * count, normalized=True) for count in range(4, 1, -1)])
    ordinary, mask = SPECIALS[:-1], SPECIALS[-1]
    backend.add_special_tokens([*ordinary, AddedToken(mask, lstrip=True, special=True)])
    around = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=around
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=True,
        **dict(zip(names, SPECIALS, strict=True)),
    )


def unigram_pieces(specials: list[str]) -> list[tuple[str, float]]:
    """Special tokens, then words that open with the mark of a space, and all letters.

    A score is the logarithm of a share. They are counted here: what `UnigramTrainer` makes of these
    words is not the same in each process.
    """
    counts = Counter(f"\u2581{word}" for line in lines() for word in line.split())
    counts.update(character for line in lines() for character in line.replace(" ", "\u2581"))
    total = sum(counts.values())
    ordered = sorted(counts, key=lambda piece: (-counts[piece], piece))
    scores = [(piece, round(math.log(counts[piece] / total), 3)) for piece in ordered]
    return [*((special, 0.0) for special in specials), *scores]


def unigram_of_xlm_roberta() -> PreTrainedTokenizerFast:
    """XLM-R's: pieces of SentencePiece, with the mask at the end."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [*unigram_pieces(specials), ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=_NORMALIZED)


def unigram_of_camembert() -> PreTrainedTokenizerFast:
    """CamemBERT's: fairseq's own special tokens first, those that are used after them."""
    unused = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    vocabulary = [*unigram_pieces([*unused, "<s>", "</s>"]), ("<mask>", 0.0)]
    return CamembertTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=_NORMALIZED)


# A family that is not here has BERT's.
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "roberta": byte_level_tokenizer,
    "xlm-roberta": unigram_of_xlm_roberta,
    "camembert": unigram_of_camembert,
    "modernbert": byte_level_of_modernbert,
}


def tokenizer_of(model_type: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family's tiny models."""
    return TOKENIZERS.get(model_type, word_piece)()
