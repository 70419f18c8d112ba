"""How often pieces occur in a text, and the sample of it that is kept."""

import json

import numpy as np
import pytest
from byte_level import byte_level_tokenizer
from tiny_experiments import documents, word_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from distilcli.corpus import piece_counts
from distilcli.corpus.piece_counts import PieceCounter, count_files


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), byte_level_tokenizer()], ids=["WP", "BPE"])
def test_pieces_are_counted_as_the_tokenizer_reads_them(tokenizer):
    """Control tokens that are written in a text are text, as they are to `prepare`."""
    lines = [*documents(20), "", "ba \u00e9 [CLS] <s>"]
    counter = PieceCounter(tokenizer)
    counter.add(lines[:7])
    counter.add(lines[7:])
    expected = np.zeros(len(tokenizer), dtype=np.int64)
    for line in lines[:-1]:
        np.add.at(expected, tokenizer(line, add_special_tokens=False)["input_ids"], 1)
    assert counter.counts[tokenizer.cls_token_id] == 0
    rest = counter.counts - expected
    assert (rest >= 0).all()
    assert 0 < rest.sum() < 20


def test_a_number_may_be_of_no_token():
    """As in a vocabulary that a piece was taken out of."""
    tree = json.loads(word_tokenizer().backend_tokenizer.to_str())
    del tree["model"]["vocab"]["ku"]
    backend = Tokenizer.from_str(json.dumps(tree))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    counter = PieceCounter(tokenizer)
    counter.add(["ba zu ba"])
    ids = tokenizer.convert_tokens_to_ids(["ba", "zu"])
    assert len(counter.counts) == ids[1] + 1 > len(tokenizer)
    assert counter.counts[ids].tolist() == [2, 1]
    assert counter.counts.sum() == 3


def test_a_sample_is_spread_over_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(piece_counts, "SAMPLE_CHARS", 40)
    monkeypatch.setattr(piece_counts, "_BATCH_CHARS", 30)
    lines = [f"ba {number:02d}\n" for number in range(50)]
    (tmp_path / "a.txt").write_text("".join(lines))
    read = []
    found = count_files(
        [str(tmp_path / "a.txt")], "--text", word_tokenizer(), lambda *bytes_: read.append(bytes_)
    )
    assert found.num_words == 100
    assert found.num_documents == 50
    assert found.sample == lines[::16]
    assert read[-1] == (300, 300)
    assert len(read) == 10
