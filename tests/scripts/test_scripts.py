"""The shell scripts are sound, and the ones that write what ships do it reproducibly."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked_scripts import forked
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

ROOT = Path(__file__).resolve().parents[2]
SHELL_SCRIPTS = [
    *sorted((ROOT / "scripts").rglob("*.sh")),
    *sorted((ROOT / "scripts").glob("*.sbatch")),
    ROOT / ".ci" / "run",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

each_script = pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)


def run(*command: str | Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@each_script
def test_shell_script_parses(path: Path) -> None:
    """Every shell script is valid bash."""
    run("bash", "-n", path)


@each_script
def test_shell_script_begins_as_all_do(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines


@each_script
def test_shell_script_passes_shellcheck(path: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck is not None, "it is among the packages of development"
    run(shellcheck, "--external-sources", "--source-path", ROOT, path)


def write_corpus(path: Path, documents: list[dict[str, str]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(document) + "\n" for document in documents)
    return path


def make_bert(folder: Path) -> None:
    """A small BertModel with a WordPiece tokenizer whose special tokens are not in front."""
    characters = "abcdehlorstw."
    pieces = ["[PAD]", *characters, *[f"##{c}" for c in characters]]
    pieces += ["the", "world", "hello", "rare", "##orld", "x", "##x"]
    pieces += [token for token in SPECIAL if token != "[PAD]"]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    BertTokenizer(tokenizer_object=tokenizer).save_pretrained(folder)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = BertConfig(vocab_size=len(pieces), intermediate_size=16, **shape)
    BertModel(settings).save_pretrained(folder)


def test_pruned_vocabulary_keeps_rows_and_spells_every_word(tmp_path: Path) -> None:
    source, pruned = tmp_path / "source", tmp_path / "pruned"
    make_bert(source)
    texts = [{"text": "Hello the world. A world told."}] * 10 + [{"text": "x rare"}]
    corpus = write_corpus(tmp_path / "texts.jsonl.gz", texts)
    script = ROOT / "scripts" / "development" / "prune_vocabulary.py"
    arguments = ["--size", "28", "--output", pruned]
    words = [script, "--model", source, "--texts", corpus, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert forked.run([sys.executable, *map(str, words)], env=environment).returncode == 0

    old, new = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(pruned)
    old_rows = AutoModel.from_pretrained(source).get_input_embeddings().weight
    model = AutoModel.from_pretrained(pruned, add_pooling_layer=False)
    new_rows = model.get_input_embeddings().weight
    assert len(new) == model.config.vocab_size == 28
    assert new.convert_tokens_to_ids(SPECIAL) == list(range(5))
    assert new.is_fast
    assert new.model_max_length == 512
    for piece, index in new.get_vocab().items():
        assert new_rows[index].equal(old_rows[old.get_vocab()[piece]]), piece
    # Frequent pieces stay, rare ones and rare characters go, and the words are still spelled.
    assert {"the", "world"} <= set(new.get_vocab())
    assert not {"rare", "x", "##x"} & set(new.get_vocab())
    assert new.tokenize("rare") == ["r", "##a", "##r", "##e"]
    assert new.tokenize("x") == ["[UNK]"]
    ids = new("The world told")["input_ids"]
    assert new.convert_ids_to_tokens([ids[0], ids[-1]]) == ["[CLS]", "[SEP]"]
    assert new.decode(ids, skip_special_tokens=True) == "the world told"


def test_builtin_text_is_reproducible_and_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraph = "A sentence that is written here. " * 20
    wrapped = "A line of a text that was wrapped by hand at seventy\ncharacters.\n" * 2000
    novels = [
        {"title": "Blank lines", "text": f"{paragraph.strip()}\n\n" * 200},
        {"title": "Wrapped", "text": wrapped},
    ]
    articles = [
        {"id": str(number), "title": f"Article {number}", "text": "Word. " * 1000}
        for number in range(3)
    ] + [{"id": "9", "title": "Stub", "text": "Too short."}]
    novel_file = write_corpus(tmp_path / "novels.jsonl.gz", novels)
    article_file = write_corpus(tmp_path / "articles.jsonl.gz", articles)
    script = ROOT / "scripts" / "development" / "make_builtin_text.py"
    outputs = [tmp_path / "one.gz", tmp_path / "two.gz"]
    for output in outputs:
        inputs = ["--wikipedia", article_file, "--novels", novel_file]
        run(sys.executable, script, *inputs, "--output", output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with gzip.open(outputs[0], "rt", encoding="utf-8") as lines:
        documents = {document["title"]: document for document in map(json.loads, lines)}
    assert set(documents) == {"Article 0", "Article 1", "Article 2", "Blank lines", "Wrapped"}
    assert documents["Article 1"]["source"] == "https://en.wikipedia.org/?curid=1"
    for novel in novels:
        text = documents[novel["title"]]["text"]
        assert 10_000 < len(text) < 20_000
        assert text.startswith("A ")
        assert text.endswith(".")


def test_builtin_text_ships_with_its_card() -> None:
    folder = ROOT / "distilcli" / "builtin"
    with gzip.open(folder / "text.jsonl.gz", "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    card = (folder / "TEXT_CARD.md").read_text(encoding="utf-8")
    assert f"{len(documents)} English documents" in card
    assert {frozenset(document) for document in documents} == {
        frozenset({"title", "text", "source"})
    }
    articles = [d for d in documents if d["source"].startswith("https://en.wikipedia.org/")]
    assert f"| {len(articles)} | {sum(len(d['text']) for d in articles):,} |" in card
