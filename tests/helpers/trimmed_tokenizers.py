"""Tokenizers of every kind to remove pieces from, and some small enough to work out by hand."""

import family_tokenizers
import numpy as np
from family_tokenizers import lines, unigram_pieces, word_piece
from tokenizers import Tokenizer
from tokenizers.decoders import BPEDecoder, ByteFallback, Sequence
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE, Unigram
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import BertTokenizer, PreTrainedTokenizerFast

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LETTERS = list("abcxyz")


def letter_pairs() -> PreTrainedTokenizerFast:
    """Merges of letters, with a mark where a word ends, and no bytes: of FlauBERT, say."""
    backend = Tokenizer(BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=100, special_tokens=SPECIALS, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(lines(), trainer)
    backend.decoder = BPEDecoder()
    return with_names(backend)


def pieces_and_bytes() -> PreTrainedTokenizerFast:
    """Scored pieces, and bytes for characters that are none of them."""
    bytes_ = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces = [*unigram_pieces(SPECIALS[:4]), *bytes_, ("<mask>", 0.0)]
    backend = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=True))
    backend.pre_tokenizer = Metaspace()
    backend.decoder = Sequence([ByteFallback(), MetaspaceDecoder()])
    return with_names(backend)


def with_names(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(names, SPECIALS, strict=True))
    )


TOKENIZERS = {
    "bert": word_piece,
    **family_tokenizers.TOKENIZERS,
    "letter pairs": letter_pairs,
    "pieces and bytes": pieces_and_bytes,
}


def counts_in(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> np.ndarray:
    ids = np.concatenate(tokenizer(lines)["input_ids"]).astype(np.int64)
    return np.bincount(ids, minlength=len(tokenizer))


def of_word_pieces(*pieces: str) -> PreTrainedTokenizerFast:
    names = [*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *pieces]
    return BertTokenizer(
        vocab={piece: index for index, piece in enumerate(names)},
        **dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), SPECIALS, strict=False)),
        mask_token="<mask>",
    )


def of_scored_pieces(**scores: float) -> PreTrainedTokenizerFast:
    rest = [(name, -20.0) for name in [*SPECIALS, *LETTERS]]
    return with_names(Tokenizer(Unigram([*rest, *scores.items()], unk_id=3)))
