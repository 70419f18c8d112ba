"""Tokenizers of several kinds, learnt from one awkward text, and the same with fewer pieces."""

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from word_pieces import learn_word_pieces

from distilcli.text.trimming import choose_pieces, trim_tokenizer

NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Accents, composed and not; scripts without spaces; syllables that fall apart; what takes several
# characters or bytes; marks of several tokenizers; names of special tokens.
AWKWARD = [
    "The quick brown fox re-reads unbelievable rereadings; unreadable, unread!",
    "na\u00efve cafe\u0301 \u00c5ngstro\u0308m \ufb01nance \u2460 \u00bd \ufdfa x\u00b2",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5 \u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a\u6587 "
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\U0001f44d\U0001f3fd\U0001f468\u200d\U0001f469\u200d\U0001f467 ok\U0001f600\U0001f600no "
    "\u0639\u0631\u0628\u064a\u064e \u0939\u093f\u0928\u094d\u0926\u0940",
    "##ing ## a##b \u2581\u2581x \u0120word [MASK] [UNK] <s> @@ a_b C++ ... ----",
    "tab\there  two  spaces\u00a0nbsp\u3000wide\u200bzero \ufeffbom\x00null\r\n new\nline ",
    "aaaaaaaaaaaaaaaaaaaaaaaa abababababababab aaabaaab bbbb anananananas mississippi",
    "supercalifragilisticexpialidocious " + "x" * 120 + " xx" + "yz" * 60,
    "3.14159 2,718 1e-5 007 v2.0 don't we'll I'm they've 'quoted' \u201ccurly\u201d",
    "",
    " ",
]


def _word_piece(reader: Any) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = reader
    return backend


def _byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _unigram() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend


def _bpe_with_suffix() -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": lambda: _word_piece(pre_tokenizers.BertPreTokenizer()),
    "wordpiece at spaces": lambda: _word_piece(pre_tokenizers.WhitespaceSplit()),
    "byte-level": _byte_level,
    "unigram": _unigram,
    "unigram with bytes": _unigram,
    "bpe with suffix": _bpe_with_suffix,
}


def teacher_tree(kind: str, size: int = 400) -> dict[str, Any]:
    """JSON tree of a tokenizer of one kind, learnt from AWKWARD."""
    backend = KINDS[kind]()
    options: dict[str, Any] = {
        "vocab_size": size,
        "special_tokens": SPECIALS,
        "show_progress": False,
    }
    texts = [*AWKWARD, *AWKWARD]
    if kind.startswith("wordpiece"):
        vocabulary = learn_word_pieces(backend, texts, size, SPECIALS)
        backend.model = models.WordPiece(vocabulary, unk_token="[UNK]")
        backend.add_special_tokens(SPECIALS)
        tree: dict[str, Any] = json.loads(backend.to_str())
        return tree
    if kind.startswith("unigram"):
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", **options)
    elif kind == "byte-level":
        trainer = trainers.BpeTrainer(
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options
        )
    else:
        trainer = trainers.BpeTrainer(end_of_word_suffix="</w>", **options)
    backend.train_from_iterator(texts, trainer)
    tree = json.loads(backend.to_str())
    if kind == "unigram with bytes":
        tree["model"]["byte_fallback"] = True
        tree["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    return tree


def with_fewer_pieces(tree: dict[str, Any], share: float, seed: int) -> dict[str, Any]:
    """The same tokenizer without some pieces, which are drawn, with ids that close the gaps.

    Single characters may go, too, except of a tokenizer that has no [UNK].
    """
    draw = random.Random(seed)
    model = tree["model"]
    is_unigram = model["type"] == "Unigram"
    names = [piece for piece, _ in model["vocab"]] if is_unigram else list(model["vocab"])
    names.sort(key=lambda piece: 0 if is_unigram else model["vocab"][piece])
    fixed = set(SPECIALS)
    if model["type"] == "BPE" and model["unk_token"] is None:
        fixed |= {piece for piece in names if len(piece) == 1}
    kept = [piece for piece in names if piece in fixed or draw.random() >= share]
    ids = {piece: index for index, piece in enumerate(kept)}
    changes: dict[str, Any] = {"vocab": ids}
    if is_unigram:
        changes["vocab"] = [pair for pair in model["vocab"] if pair[0] in ids]
        changes["unk_id"] = ids["[UNK]"]
    if "merges" in model:
        merges = [(one, other) for one, other in model["merges"]]
        changes["merges"] = [pair for pair in merges if {*pair, "".join(pair)} <= ids.keys()]
    added = [token | {"id": ids[token["content"]]} for token in tree["added_tokens"]]
    return tree | {"model": model | changes, "added_tokens": added}


def awkward_texts(number: int, seed: int, size: int = 25) -> list[str]:
    """Words and characters of AWKWARD, next to each other as they are not there."""
    draw = random.Random(seed)
    words = " ".join(AWKWARD).split(" ")
    characters = sorted(set("".join(AWKWARD)))

    def text() -> str:
        parts = (draw.choice([draw.choice(words), draw.choice(characters)]) for _ in range(size))
        return "".join(part + draw.choice(["", " ", "", "\n"]) for part in parts)

    return [text() for _ in range(number)]


def half_of(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same without half of the pieces that may go."""
    always = len(choose_pieces(tokenizer, np.zeros(0, np.int64), keep=None, min_count=1))
    kept = choose_pieces(tokenizer, None, keep=(always + len(tokenizer)) // 2, min_count=1)
    return trim_tokenizer(tokenizer, kept)


def fast_tokenizer(tree: dict[str, Any], name: str = "") -> PreTrainedTokenizerFast:
    """The tokenizer of transformers with this JSON tree."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tree)),
        **dict(zip(NAMES, SPECIALS, strict=True)),
    )
    tokenizer.name_or_path = name
    return tokenizer
