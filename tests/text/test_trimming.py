"""A trimmed tokenizer reads every text that the full one reads, with fewer pieces."""

import family_tokenizers
import numpy as np
import pytest
from family_tokenizers import AWKWARD, lines, unigram_pieces, word_piece
from tiny_experiments import documents
from tiny_models import word_tokenizer as whole_words
from tokenizers import Tokenizer
from tokenizers.decoders import BPEDecoder, ByteFallback, Sequence
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE, Unigram
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from distilcli.errors import ConfigError, ModelError
from distilcli.text.pieces import pieces_of
from distilcli.text.tokenizers import backend_tree
from distilcli.text.trimming import choose_pieces, trim_tokenizer

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


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
WRITTEN = [*AWKWARD, "[MASK] <mask> ba [unused1] </s> <url>", "ba\nbe\n"]
each_kind = pytest.mark.parametrize("kind", TOKENIZERS)


@pytest.fixture
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


def texts() -> list[str]:
    return [*documents(30, seed=5), *WRITTEN]


def counts_in(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> np.ndarray:
    ids = np.concatenate(tokenizer(lines)["input_ids"]).astype(np.int64)
    return np.bincount(ids, minlength=len(tokenizer))


def spelled(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """The letters of a text."""
    return tokenizer.decode(ids).replace(" ##", "").replace(" ", "")


def half_of(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """What always stays, and half of the rest."""
    always = len(choose_pieces(tokenizer, np.zeros(0, np.int64), keep=None, min_count=1))
    return choose_pieces(tokenizer, None, keep=(always + len(tokenizer)) // 2, min_count=1)


@each_kind
def test_nothing_becomes_unknown_that_was_not(tokenizer):
    trimmed = trim_tokenizer(tokenizer, half_of(tokenizer))
    assert len(trimmed) < len(tokenizer)
    for text in texts():
        full, fewer = (one(text)["input_ids"] for one in (tokenizer, trimmed))
        unknown = full.count(tokenizer.unk_token_id), fewer.count(trimmed.unk_token_id)
        assert unknown[1] <= unknown[0], text
        assert spelled(trimmed, fewer) == spelled(tokenizer, full), text


@each_kind
def test_a_text_whose_pieces_are_all_kept_has_the_same(tokenizer):
    for text in texts():
        kept = choose_pieces(tokenizer, counts_in(tokenizer, [text]), keep=None, min_count=1)
        assert len(kept) < len(tokenizer)
        trimmed = trim_tokenizer(tokenizer, kept)
        assert kept[trimmed(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]
        assert trimmed.tokenize(text) == tokenizer.tokenize(text)


@each_kind
def test_ids_are_in_the_order_of_the_old_ones(tokenizer):
    kept = half_of(tokenizer)
    assert kept.dtype == np.int64
    assert (np.diff(kept) > 0).all()
    trimmed = trim_tokenizer(tokenizer, kept)
    assert sorted(trimmed.get_vocab().values()) == list(range(len(kept)))
    tokens = trimmed.convert_ids_to_tokens(list(range(len(kept))))
    assert tokens == tokenizer.convert_ids_to_tokens(kept.tolist())


@each_kind
def test_special_and_added_tokens_stay_what_they_are(tokenizer):
    tokenizer.add_tokens(["<url>"])
    trimmed = trim_tokenizer(tokenizer, half_of(tokenizer))
    assert trimmed.special_tokens_map == tokenizer.special_tokens_map
    assert trimmed.all_special_tokens == tokenizer.all_special_tokens
    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert [str(token) for token in trimmed.added_tokens_decoder.values()] == tokens
    for name, token in tokenizer.special_tokens_map.items():
        assert trimmed.convert_ids_to_tokens(getattr(trimmed, f"{name}_id")) == token
    [ids] = trimmed(["ba <url>"], ["be"])["input_ids"]
    [before] = tokenizer(["ba <url>"], ["be"])["input_ids"]
    assert spelled(trimmed, ids) == spelled(tokenizer, before)
    assert "<url>" in trimmed.convert_ids_to_tokens(ids)


@each_kind
def test_it_is_saved_and_loaded_as_it_is(tokenizer, tmp_path):
    tokenizer.model_max_length = 77
    tokenizer.truncation_side = "left"
    trimmed = trim_tokenizer(tokenizer, half_of(tokenizer))
    assert (trimmed.model_max_length, trimmed.truncation_side) == (77, "left")
    assert trimmed.model_input_names == tokenizer.model_input_names
    assert type(trimmed) is type(tokenizer)
    trimmed.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(trimmed)
    assert backend_tree(loaded) == backend_tree(trimmed)
    assert loaded.model_max_length == 77
    for text in texts():
        assert loaded(text) == trimmed(text)


@each_kind
def test_all_pieces_kept_is_the_same_tokenizer(tokenizer):
    kept = choose_pieces(tokenizer, None, keep=len(tokenizer) + 5, min_count=1)
    assert kept.tolist() == list(range(len(tokenizer)))
    assert backend_tree(trim_tokenizer(tokenizer, kept)) == backend_tree(tokenizer)


# Which pieces are chosen


@each_kind
def test_no_more_are_kept_than_asked_for(tokenizer):
    counts = counts_in(tokenizer, documents(30))
    always = pieces_of(tokenizer).always
    for keep in (len(always) + 7, len(tokenizer), len(tokenizer) + 9):
        kept = set(choose_pieces(tokenizer, counts, keep=keep, min_count=1).tolist())
        assert always < kept
        assert len(kept) <= keep
    everything = choose_pieces(tokenizer, counts, keep=None, min_count=1)
    assert kept == set(everything.tolist())


@each_kind
def test_a_piece_that_occurs_often_enough_is_kept(tokenizer):
    counts = counts_in(tokenizer, documents(30))
    found, more = (
        set(choose_pieces(tokenizer, counts, keep=None, min_count=count).tolist())
        for count in (20, 1)
    )
    assert set(np.flatnonzero(counts >= 20).tolist()) <= found < more
    assert set(np.flatnonzero(counts).tolist()) <= more


@each_kind
def test_smaller_is_longer(tokenizer):
    """The fewer pieces, the more of them a text has; chosen by counts they are fewer."""
    text = documents(60)
    counts = counts_in(tokenizer, text)
    least = len(pieces_of(tokenizer).always)
    lengths = []
    for by in (counts, None):
        kept = choose_pieces(tokenizer, by, keep=least + 12, min_count=1)
        ids = trim_tokenizer(tokenizer, kept)(text)["input_ids"]
        lengths.append(sum(map(len, ids)))
    assert counts.sum() <= lengths[0] <= lengths[1]


LETTERS = list("abcxyz")


def of_word_pieces(*pieces: str) -> PreTrainedTokenizerFast:
    names = [*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *pieces]
    return BertTokenizer(
        vocab={piece: index for index, piece in enumerate(names)},
        **dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), SPECIALS, strict=False)),
        mask_token="<mask>",
    )


def kept_of(tokenizer, occurrences: dict[str, int], keep: int, min_count: int = 1) -> set[str]:
    """What is kept beyond what always is, if so many pieces are and these occur."""
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    for piece, count in occurrences.items():
        counts[tokenizer.convert_tokens_to_ids(piece)] = count
    least = pieces_of(tokenizer).always
    kept = choose_pieces(tokenizer, counts, keep=len(least) + keep, min_count=min_count)
    return set(tokenizer.convert_ids_to_tokens(sorted(set(kept.tolist()) - least)))


def of_scored_pieces(**scores: float) -> PreTrainedTokenizerFast:
    rest = [(name, -20.0) for name in [*SPECIALS, *LETTERS]]
    return with_names(Tokenizer(Unigram([*rest, *scores.items()], unk_id=3)))


def test_what_is_removed_counts_for_what_it_is_spelled_with():
    """Of ab and ##cx there are 4 + 3 when abcx is gone, which makes them worth more than xyz."""
    tokenizer = of_word_pieces("ab", "##cx", "abcx", "xyz")
    occurrences = {"abcx": 3, "ab": 4, "##cx": 4, "xyz": 5}
    assert kept_of(tokenizer, occurrences, 3) == {"ab", "##cx", "xyz"}
    assert kept_of(tokenizer, occurrences, 2) == {"ab", "##cx"}
    assert kept_of(tokenizer, occurrences, 9, min_count=6) == {"ab", "##cx"}
    assert kept_of(tokenizer, occurrences | {"abcx": 6}, 2) == {"abcx", "xyz"}


def test_a_spelling_is_the_most_probable_one():
    """Of abcx: that with ab and cx, not that with a and bcx."""
    tokenizer = of_scored_pieces(ab=-3.0, cx=-4.0, bcx=-5.0, abcx=-4.0, xyz=-3.0)
    occurrences = {"abcx": 3, "ab": 4, "cx": 4, "bcx": 4, "xyz": 5}
    assert kept_of(tokenizer, occurrences, 3) == {"ab", "cx", "xyz"}
    assert kept_of(tokenizer, occurrences, 2) == {"ab", "cx"}


def test_a_merge_needs_its_parts_which_count_for_what_is_merged_from_them():
    """Of abcx: ab and cx, which need not occur by themselves."""
    merges = [("a", "b"), ("c", "x"), ("ab", "cx"), ("x", "y"), ("xy", "z")]
    names = [*SPECIALS, *LETTERS, *("".join(pair) for pair in merges)]
    tokenizer = with_names(Tokenizer(BPE({name: i for i, name in enumerate(names)}, merges)))
    assert kept_of(tokenizer, {"abcx": 4, "xyz": 3}, 5) == {"ab", "cx", "abcx", "xy", "xyz"}
    assert kept_of(tokenizer, {"abcx": 4, "xyz": 3}, 4) == {"ab", "cx", "abcx", "xy"}
    assert kept_of(tokenizer, {"abcx": 4, "xyz": 5}, 2) == {"xy", "xyz"}
    assert kept_of(tokenizer, {"abcx": 4, "ab": 2, "xyz": 5}, 1) == {"ab"}
    assert kept_of(tokenizer, {"abcx": 4, "ab": 2, "xyz": 5}, 9, min_count=6) == {"ab"}
    kept = choose_pieces(tokenizer, None, keep=len(tokenizer) - 2, min_count=1)
    assert trim_tokenizer(tokenizer, kept).tokenize("abcxyz") == ["abcx", "y", "z"]


def test_what_no_word_can_have_goes_first():
    """[unused1] is four words to a BERT, and a comma is a word of its own."""
    tokenizer = of_word_pieces("[unused1]", "##,", "##\u4f60", "ab", "##cx")
    assert kept_of(tokenizer, {}, 0) == set()
    everything = choose_pieces(tokenizer, None, keep=len(tokenizer) - 3, min_count=1)
    gone = set(range(len(tokenizer))) - set(everything.tolist())
    assert set(tokenizer.convert_ids_to_tokens(sorted(gone))) == {"[unused1]", "##,", "##\u4f60"}


def test_pieces_with_a_character_that_is_no_piece_itself_stay():
    """Without q as a piece of its own, xq could not be spelled."""
    tokenizer = of_word_pieces("xq", "##qx", "ab")
    always = tokenizer.convert_ids_to_tokens(sorted(pieces_of(tokenizer).always))
    assert {"xq", "##qx"} <= set(always)
    assert "ab" not in always
    tokenizer = of_scored_pieces(xq=-3.0, ab=-3.0)
    always = tokenizer.convert_ids_to_tokens(sorted(pieces_of(tokenizer).always))
    assert "xq" in always
    assert "ab" not in always


def test_an_unknown_character_costs_what_it_did():
    """That follows from the lowest score of all pieces, which stays."""
    pieces = [*((name, 0.0) for name in SPECIALS), ("a", -1.0), ("b", -1.0), ("ab", -30.0)]
    tokenizer = with_names(Tokenizer(Unigram(pieces, unk_id=3)))
    assert tokenizer.convert_tokens_to_ids("ab") in pieces_of(tokenizer).always


@each_kind
def test_fewer_than_what_always_stays_is_refused_with_that_number(tokenizer):
    least = len(pieces_of(tokenizer).always)
    with pytest.raises(ConfigError, match=r"student\.vocabulary\.keep 4: ") as caught:
        choose_pieces(tokenizer, None, keep=4, min_count=1)
    assert caught.value.hint == f"Set student.vocabulary.keep to {least} or more."
    assert len(choose_pieces(tokenizer, None, keep=least, min_count=1)) == least
    with pytest.raises(ConfigError):
        choose_pieces(tokenizer, None, keep=least - 1, min_count=1)


def test_a_model_that_looks_up_whole_words_is_refused():
    with pytest.raises(ModelError, match=r"is a WordLevel: what is removed .* would be unknown"):
        choose_pieces(whole_words(), None, keep=50, min_count=1)
