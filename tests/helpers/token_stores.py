"""What tests of the token store share: a tiny tokenizer, texts and configurations."""

import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import PreTrainedTokenizerFast

from distilcli.config.data import DataConfig

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghij"


def tiny_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """WordPiece over the letters a to j: a word has about as many tokens as letters."""
    words = [*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "ab", ".", *extra]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(names, SPECIALS, strict=True))
    )


def random_texts(num_documents: int, seed: int = 0) -> list[str]:
    """Documents of one to sixty words of the tiny tokenizer, with sentences and line ends."""
    draw = random.Random(seed)

    def word() -> str:
        letters = "".join(draw.choices(LETTERS, k=draw.randint(1, 6)))
        return letters + draw.choice(["", "", "", ".", "\n"])

    return [" ".join(word() for _ in range(draw.randint(1, 60))) for _ in range(num_documents)]


def data_config(folder: Path, *files: Path, **settings: Any) -> DataConfig:
    """A configuration with short sequences and a store at `folder`."""
    source = {"files": [str(file) for file in files], "documents": "line"}
    defaults = {"sources": [source], "max_length": 16, "min_length": 4, "held_out_fraction": 0.2}
    return DataConfig.model_validate({"store": str(folder)} | defaults | settings)
