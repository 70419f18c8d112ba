"""A small tokenizer of every kind, made from a few lines, and text that is awkward to all."""

import base64
import json
from collections.abc import Callable, Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    CamembertTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LINES = [
    "The cat sat on the mat, didn't it? Yes: 3.5 cats sat there in 1998!",
    "na\xefve caf\xe9s \u4e16\u754c \u043f\u0440\u0438\u0432\u0435\u0442 \U0001f600 running",
    "def f(x):\n    return x + 1  # spaces   and\ttabs",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \uff21\uff22 \ufb01ne E\u0301cole don't the cats",
] * 3

AWKWARD = [
    "The cat sat on the mat, didn't it?",
    " leading, and trailing ",
    "  two  spaces   three    four  ",
    "tab\tand\t\ttabs \t mixed\t the",
    "CRLF\r\nline\r\n\r\nempty lines\n\n\n  indented\n \n the end",
    "no-break\xa0space, \xa0 twice \u3000ideographic\u2003em the",
    "zero\u200bwidth \u200b the\u200b \u200b\n \ufeffbom \u200dcat",
    "soft\xad hyphen \x00 nul \x1c separators \x1f and \x85 next line",
    "e\u0301 E\u0301cole \u0301alone a\u0301\u0323 caf\xe9 \u0301 cat",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f600\U0001f600 \u2764\ufe0f heart",
    "\U0001f1eb\U0001f1f7 flag \U0001f44d\U0001f3fd tone",
    "\ufffd replaced \ufffd\ufffd the",
    "\u4e16\u754c\u4f60\u597d the\u4e16 \u754ccat 3\u6708",
    "\u043f\u0440\u0438\u0432\u0435\u0442catsat \u0627\u0644\u0639 \u0600 1 \u0600\n2",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \uff21\uff22\uff23 \ufb01ne \u2460 \xbd \u212b",
    "x" * 300 + " " + "\u754c" * 120 + " the",
    "[MASK] [SEP] <mask> </s> <s> <pad>the<mask>cat [CLS]the <unk>[UNK]",
    "<url> the <url>, cat<url> sat  <url>  :-):-) x:-)y",
    "don't DON'T it's 'tis we'll '' ''' the's 3's",
    "3.5 1,000 1998th $5 50% a+b=c ##ing \u2581the \u0120cat \u010a",
    "\xa8 \xb4 \u02c6 \u037a \u1fbf spacing marks\xa8 the \xa8cat",
    "\u0130stanbul \xdf \u1e9e \u03a3\u03c2 \u01c5 \u0345",
    "a \u0301\t b  \u0301\t c \u200b\t d  \u200b  e",
    "\ud7a3 \u1112\u1161\u11ab \u0e01\u0e33 \u0e33 the",
    "trailing line ends\r\n\n",
    "the",
    "\u200b",
    "\u0301",
]


def wordpiece(
    lowercase: bool = True, ideographs: bool = True, accents: bool | None = None
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, handle_chinese_chars=ideographs, strip_accents=accents
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Not learnt: which pieces a trainer takes of those that are as frequent differs each time.
    text = backend.normalizer.normalize_str(" ".join(LINES))
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    letters = sorted(set("".join(words)))
    inside = [f"##{letter}" for letter in letters] + ["##s", "##th", "##ing"]
    pieces = dict.fromkeys([*BERT, *sorted(set(words))[::2], "the", "run", *letters, *inside])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    backend.add_special_tokens(BERT)
    return _fast(backend, BERT)


def _fast(backend: Tokenizer, specials: Iterable[str]) -> PreTrainedTokenizerFast:
    names = (
        ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        if specials is BERT
        else ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(names, specials, strict=True))
    )


def _bpe(backend: Tokenizer, specials: list[str], alphabet: list[str]) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    return backend


def roberta(add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _bpe(backend, ROBERTA, pre_tokenizers.ByteLevel.alphabet())
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return RobertaTokenizer(
        vocab=model["vocab"], merges=merges, add_prefix_space=add_prefix_space, mask_token=mask
    )


def modernbert() -> PreTrainedTokenizerFast:
    """As ModernBERT's is: NFC, bytes, and runs of spaces that are tokens but not special."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _bpe(backend, ["<|padding|>", "<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet())
    backend.add_tokens([AddedToken(" " * number) for number in range(24, 1, -1)])
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    backend.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(t, backend.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return _fast(backend, BERT)


def _unigram(specials: list[str]) -> list[tuple[str, float]]:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([part for line in LINES for part in line.split("\n")], trainer)
    return [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]


def xlm_roberta() -> PreTrainedTokenizerFast:
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    vocab = [*_unigram(ROBERTA[:4]), ("<mask>", 0.0)]
    return XLMRobertaTokenizer(
        vocab=vocab, mask_token=mask, _spm_precompiled_charsmap=base64.b64decode(charsmap())
    )


def camembert() -> PreTrainedTokenizerFast:
    notused = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    return CamembertTokenizer(
        vocab=[*_unigram(notused), ("<mask>", 0.0)],
        _spm_precompiled_charsmap=base64.b64decode(charsmap()),
    )


def unigram(scheme: str, strip: bool = False) -> PreTrainedTokenizerFast:
    """As files that transformers 4 converted are: Metaspace alone, and single spaces."""
    backend = Tokenizer(models.Unigram(_unigram(ROBERTA), unk_id=3))
    one_space = normalizers.Replace(Regex(" {2,}"), " ")
    precompiled = normalizers.Precompiled(base64.b64decode(charsmap()))
    strips = [normalizers.Strip()] if strip else []
    backend.normalizer = normalizers.Sequence([*strips, precompiled, one_space])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens(ROBERTA)
    return _fast(backend, ROBERTA)


def word_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=BERT, show_progress=False)
    backend.train_from_iterator(LINES, trainer)
    return _fast(backend, BERT)


def gemma() -> PreTrainedTokenizerFast:
    """As mmBERT's is: spaces are markers before words are looked for, and none are found."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    _bpe(backend, [*ROBERTA, *bytes_], [])
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tree = json.loads(backend.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if t["content"] in ROBERTA]
    return _fast(Tokenizer.from_str(json.dumps(tree)), ROBERTA)


def split_bpe() -> PreTrainedTokenizerFast:
    """Bytes after a regular expression of its own, as newer models have it."""
    backend = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _fast(_bpe(backend, ROBERTA, pre_tokenizers.ByteLevel.alphabet()), ROBERTA)


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "uncased WordPiece": wordpiece,
    "cased WordPiece": lambda: wordpiece(lowercase=False),
    "WordPiece with accents": lambda: wordpiece(accents=False),
    "WordPiece, ideographs in words": lambda: wordpiece(ideographs=False),
    "RoBERTa": roberta,
    "RoBERTa, space before a text": lambda: roberta(add_prefix_space=True),
    "ModernBERT": modernbert,
    "XLM-RoBERTa": xlm_roberta,
    "CamemBERT": camembert,
    "Unigram, always marked": lambda: unigram("always"),
    "Unigram, first marked": lambda: unigram("first"),
    "Unigram, stripped": lambda: unigram("always", strip=True),
    "word level": word_level,
    "mmBERT": gemma,
    "BPE with an expression of its own": split_bpe,
}
# Which of them `prepare` looks words up for.
LOOKED_UP = {name for name in KINDS if "WordPiece" in name}


def tokenizer_of(kind: str, added: bool = True) -> PreTrainedTokenizerFast:
    """A fresh one, with a special token of its own and one that is not special."""
    tokenizer = KINDS[kind]()
    if added:
        tokenizer.add_tokens([AddedToken("<url>", special=True, normalized=False)])
        tokenizer.add_tokens([AddedToken(":-)", normalized=False)])
    return tokenizer


# A table of characters as SentencePiece compiles it

_REPLACED = {
    "\n": " ",
    "\t": " ",
    "\xa0": " ",
    "\u3000": " ",
    "\u200b": " ",
    "\xad": "",
    "\ufb01": "fi",
    "\uff21": "A",
    "\uff22": "B",
    "\xa8": " \u0308",
    "e\u0301": "\xe9",
    "E\u0301": "\xc9",
    "\u2460": "1",
    "\xbd": "1\u20442",
    "\u0600": "x",  # one character with a space after it, which is lost
    " \u0301": "\xb4",
}


def charsmap() -> str:
    """`_REPLACED` as a table for `normalizers.Precompiled`, base64.

    Format of darts-clone, which SentencePiece uses: its size in bytes, an array of units, then the
    replacements, each ended by a zero. A unit holds a label (bits 0 to 7), whether there is a leaf
    (8), and where its children are (10 and up), an offset that is XORed. Here every node has a
    block of 256 units to itself.
    """
    children: list[dict[int, int]] = [{}]
    values: dict[int, int] = {}
    replacements = b""
    for key, value in _REPLACED.items():
        node = 0
        for byte in key.encode():
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
            node = children[node][byte]
        values[node] = len(replacements)
        replacements += value.encode() + b"\0"
    units = [0] * (256 * (len(children) + 1))
    places = {0: 0}
    for node, labels in enumerate(children):  # a parent comes before its children
        block = 256 * (node + 1)
        leaf = 1 << 8 if node in values else 0
        units[places[node]] |= (places[node] ^ block) << 10 | leaf
        if leaf:
            units[block] = 1 << 31 | values[node]
        for byte, child in labels.items():
            places[child] = block ^ byte
            units[places[child]] = byte
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + replacements).decode()
