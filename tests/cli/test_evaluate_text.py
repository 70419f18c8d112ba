"""`eval --text`: models on text that no experiment names, whose tokens are kept and never mixed."""

import functools
import json
import os
from pathlib import Path

import pytest
import tiny_suites
from tiny_experiments import TinyWorld, bert, documents, listing, save

from distilcli.config.reading import load_masked_lm_experiment
from distilcli.corpus import text_cache
from distilcli.models.copying import copy_layers
from distilcli.models.loading import load_masked_lm
from distilcli.training.run_folder import RunFolder

invoke = functools.partial(tiny_suites.invoke, command="eval")
refused = functools.partial(tiny_suites.refused, command="eval")

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distilcli" / "text"


@pytest.fixture(scope="module")
def trained(tiny_world: TinyWorld, tmp_path_factory) -> Path:
    """A run folder with a student of two layers that was never trained."""
    root = tmp_path_factory.mktemp("runs")
    config = tiny_world.write_config(root / "own.yaml", name="own", output_dir=str(root))
    RunFolder(root / "own").begin(load_masked_lm_experiment(config), force=False)
    student = copy_layers(load_masked_lm(str(tiny_world.teacher)), [0, 2])
    save(student, root / "own" / "student")
    return root / "own"


def text_file(folder: Path, number: int = 30, seed: int = 9) -> Path:
    path = folder / f"other-{number}-{seed}.txt"
    path.write_text("".join(f"{line}\n" for line in documents(number, seed)), encoding="utf-8")
    return path


def measured(*arguments: str) -> dict:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_run_on_other_text(tiny_world, trained, tmp_path, cache):
    """Its teacher beside it; nothing is written but the tokens of that text."""
    other = text_file(tmp_path)
    before = listing(trained.parent), listing(tiny_world.store)
    record = measured(str(trained), "--text", str(other))
    assert (record["experiment"], record["results"]) == ("own", None)
    assert list(record["models"]) == ["teacher", "own trained"]
    assert record["models"]["teacher"]["path"] == str(tiny_world.teacher)
    assert record["models"]["teacher"]["retained"] == 1.0
    text = record["text"]
    assert text["files"] == [str(other)]
    # A line is a document, as in the run's own data; what is longer is several sequences.
    assert text["documents"] == 30
    lengths = [len(line.split()) for line in documents(30, 9)]
    assert text["tokens"] == sum(lengths) + 2 * text["sequences"]
    [store] = cache.iterdir()
    assert text["store"] == str(store)
    assert (listing(trained.parent), listing(tiny_world.store)) == before
    # The scores are those of this text, not of the run's own.
    own = measured(str(trained), "--output", str(tmp_path / "own"))
    counts = [r["models"]["own trained"]["scores"]["num_masked"] for r in (record, own)]
    assert counts[0] != counts[1]
    # The run's student by itself is the same model.
    alone = measured(str(trained / "student"), "--text", str(other))
    assert alone["models"]["own trained"]["scores"] == record["models"]["own trained"]["scores"]


def test_the_held_out_text_itself_has_the_scores_of_the_run(tiny_world, tmp_path):
    """What `eval` says of held-out text, `--text` says of the same documents in a file."""
    other = text_file(tmp_path)
    data = tiny_world.experiment()["data"] | {"store": str(tmp_path / "store")}
    data["held_out_sources"] = [{"files": [str(other)], "documents": "line"}]
    config = str(tiny_world.write_config(tmp_path / "own.yaml", data=data))
    from typer.testing import CliRunner

    from distilcli.cli.app import app

    prepared = CliRunner().invoke(app, ["prepare", "--config", config, "--num-proc", "1"])
    assert prepared.exit_code == 0, prepared.output
    words = [str(tiny_world.teacher), "--config", config, "--no-speed"]
    held_out = measured(*words, "--output", str(tmp_path / "out"))
    text = measured(*words, "--text", str(other))
    name = str(tiny_world.teacher)
    assert text["models"][name]["scores"] == held_out["models"][name]["scores"]
    assert held_out["models"][name]["speed"] is None


def test_for_people_and_twice(trained, tmp_path, cache):
    """The table says which text and how much of it; the second time nothing is tokenised."""
    other = text_file(tmp_path)
    arguments = [str(trained), "--text", str(other), "--no-speed"]
    first = invoke(*arguments)
    assert first.exit_code == 0, first.output
    said = " ".join(first.stdout.split())
    assert f"{other}: " in said
    for word in ("tokens in", "sequences,", "of them masked", "agreement"):
        assert word in said
    for word in ("latency", "written"):
        assert word not in said
    before = listing(cache)
    again = invoke(*arguments)
    assert again.stdout == first.stdout
    assert listing(cache) == before


def test_no_two_texts_are_mixed(tiny_world, trained, tmp_path, cache):
    """Another file, the same file changed in place, other settings: each has its own store."""
    other = text_file(tmp_path)
    arguments = [str(trained), "--no-speed", "--text"]
    first = measured(*arguments, str(other))["text"]
    second = measured(*arguments, str(text_file(tmp_path, 20, 5)))["text"]
    both = measured(*arguments, str(other), "--text", str(text_file(tmp_path, 20, 5)))["text"]
    assert both["tokens"] == first["tokens"] + second["tokens"]
    as_one = measured(*arguments, str(other), "--documents", "file")["text"]
    assert as_one["documents"] == 1
    shorter = measured(*arguments, str(other), "data.max_length=12")["text"]
    assert shorter["sequences"] > first["sequences"]
    # Of the same size, with another time of change.
    status = other.stat()
    words = other.read_text(encoding="utf-8").split()
    other.write_text(" ".join(reversed(words)) + "\n", encoding="utf-8")
    assert other.stat().st_size == status.st_size
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert measured(*arguments, str(other))["text"]["documents"] == 1
    assert len(list(cache.iterdir())) == 6


def test_models_of_no_run(tiny_world, trained, tmp_path):
    """Plain folders beside each other, or beside a teacher; no experiment is needed."""
    other = text_file(tmp_path)
    student, teacher = str(trained / "student"), str(tiny_world.teacher)
    copied = str(save(load_masked_lm(student), tmp_path / "copied"))
    options = ["--text", str(other), "--documents", "line", "--no-speed"]
    record = measured(copied, "--teacher", teacher, *options)
    assert record["experiment"] is None
    assert list(record["models"]) == ["teacher", copied]
    in_its_run = measured(str(trained), "--text", str(other), "--no-speed", "data.min_length=8")
    # Of the tiny models' 32 positions, where the run's sequences have 24.
    assert record["text"]["sequences"] < in_its_run["text"]["sequences"]
    alone = measured(copied, *options, "--output", str(tmp_path / "out"))
    assert list(alone["models"]) == [copied]
    assert alone["models"][copied]["retained"] is None
    assert alone["models"][copied]["scores"]["agreement"] is None
    for key in ("loss", "accuracy", "num_masked"):
        assert alone["models"][copied]["scores"][key] == record["models"][copied]["scores"][key]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["text"] == record["text"]


def test_other_formats_need_no_documents(trained, tiny_world, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = documents(20, 9)
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    teacher = str(tiny_world.teacher)
    record = measured(teacher, "--text", str(path), "--no-speed")
    assert record["text"]["documents"] == 20
    assert measured(teacher, "--text", str(tmp_path / "*.jsonl"), "--no-speed") != record
    assert len(list(text_cache.cache_folder().iterdir())) == 1


def test_without_the_variable_it_is_below_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert text_cache.cache_folder() == tmp_path / ".cache" / "distilcli" / "text"


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--text", "nosuch.txt"], "--text: nosuch.txt matches no file"),
        (["RUN", "--text", "empty.txt"], "--text: CACHE: the sources hold no sequence"),
        (
            ["TEACHER", "--text", "one.txt"],
            "--documents: must be said for text files such as FOLDER/one.txt",
        ),
        (["--text", "one.txt", "--documents", "line"], "--text: there is no model to measure"),
        (["RUN", "--documents", "line"], "--documents can only be used with --text"),
        (["RUN", "--text", "one.txt", "--teacher", "t"], "--teacher: the experiment names its te"),
        (
            ["RUN", "--dev", "one.txt"],
            "--dev needs an experiment on a task; this one is masked-LM training",
        ),
        (
            ["TEACHER", "--text", "one.txt", "train.seed=1"],
            "'train.seed=1': there is no experiment whose settings this could override",
        ),
        (["TEACHER"], "no experiment to evaluate with"),
        (["TEACHER", "runs/mistyped"], "runs/mistyped: there is no such run or folder"),
    ],
)
def test_what_is_refused(tiny_world, trained, tmp_path, monkeypatch, cache, arguments, message):
    """Unusable `--text` is refused with a reason, and leaves nothing in the cache."""
    monkeypatch.chdir(tmp_path)
    Path("one.txt").write_text("ba be bi bo bu\n")
    Path("empty.txt").write_text("\n")
    places = {"RUN": str(trained), "TEACHER": str(tiny_world.teacher)}
    found = refused(*(places.get(word, word) for word in arguments))
    for name in cache.iterdir() if cache.exists() else []:
        found = found.replace(str(name), "CACHE")
    said = found.replace(str(cache), "CACHE")
    message = message.replace("FOLDER", str(tmp_path))
    if "CACHE" in message:
        assert said.startswith("--text: CACHE")
        assert "the sources hold no sequence" in said
        assert list(cache.iterdir()) == []  # what came to nothing is not kept
    else:
        assert said.startswith(message)


def test_a_cache_that_cannot_be_written(trained, tmp_path, cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in the way")
    arguments = str(trained), "--text", str(text_file(tmp_path))
    message = refused(*arguments)
    assert message.startswith(f"--text: {cache}, where its tokens are kept, cannot be written (")
    assert "Set XDG_CACHE_HOME to a folder that you may write to." in invoke(*arguments).stderr
    assert cache.parent.read_text() == "a file in the way"


def test_models_of_another_tokenizer_are_refused(trained, tmp_path):
    """Their figures would be of other tokens."""
    other = tmp_path / "model"
    save(bert(), other)
    tree = json.loads((other / "tokenizer.json").read_text())
    tree["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(tree))
    message = refused(str(trained), str(other), "--text", str(text_file(tmp_path)))
    assert message.startswith(f"{other}: its tokenizer is another than that of ")
