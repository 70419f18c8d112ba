"""Experiment files: what is read, what is the default, and what a mistake is answered with."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment_settings import SMALLEST, complaint, complaint_about, data, load
from loss_settings import weights

from distilcli.config import reading
from distilcli.config.data import FilesSource
from distilcli.config.models import CopiedStudent, VocabularyConfig
from distilcli.errors import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


# Reading


def test_what_a_file_leaves_out_is_the_default(path: Path) -> None:
    experiment = load(path)
    assert experiment.student == CopiedStudent()
    assert experiment.train.num_epochs == 3
    assert experiment.data.sources == [FilesSource(files=["a.jsonl"])]


def test_a_float_may_be_written_as_yaml_takes_for_text(path: Path) -> None:
    path.write_text(yaml.safe_dump(SMALLEST) + "optim:\n  lr: 3e-4\n", encoding="utf-8")
    assert yaml.safe_load(path.read_text())["optim"]["lr"] == "3e-4"
    assert reading.load_masked_lm_experiment(path).optim.lr == 3e-4
    assert load(path, "optim.eps=1e-8").optim.eps == 1e-8


@pytest.mark.parametrize(
    ("value", "share"), [("all", 1.0), ("masked", 0.0), ("{sample: 0.25}", 0.25)]
)
def test_positions_of_soft_targets(path: Path, value: str, share: float) -> None:
    assert load(path, f"loss.positions={value}").loss.unmasked_share == share


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{keep: 8000}", {"keep": 8000, "corpus": False, "min_count": 1}),
        ("{corpus: true, min_count: 5}", {"keep": None, "corpus": True, "min_count": 5}),
        ("{keep: 9, corpus: true}", {"keep": 9, "corpus": True, "min_count": 1}),
    ],
)
def test_the_part_of_a_vocabulary_that_a_student_keeps(path: Path, value, expected) -> None:
    student = load(path, f"student.vocabulary={value}").student
    assert student.kept_vocabulary == VocabularyConfig(**expected)
    for all_of_it in ("{}", "{vocabulary: null}", "{kind: random}", "{kind: checkpoint, model: m}"):
        assert load(path, f"student={all_of_it}").student.kept_vocabulary is None


# Of an experiment with stages, each stage is dumped.
@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if c.stem != "stages"], ids=lambda config: config.stem
)
def test_dump_is_read_back_as_the_same(config: Path, path: Path) -> None:
    experiment = reading.load_experiment(config)
    path.write_text(reading.dump(experiment), encoding="utf-8")
    assert reading.load_experiment(path) == experiment


def test_dump_keeps_every_kind_of_value(path: Path) -> None:
    experiment = load(
        path,
        "optim.max_grad_norm=.inf",
        "optim.lr=1.0e-11",
        "student.layers=[3, 1, 1]",
        "data.store='3e-4'",
        "loss.positions={sample: 0.25}",
        "data.held_out_sources=[{hub: a/b, subset: 'null'}]",
        'data.sources.0.files=["\\u00e4 b", "yes"]',
    )
    path.write_text(reading.dump(experiment), encoding="utf-8")
    assert reading.load_masked_lm_experiment(path) == experiment


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file") as caught:
        reading.load_masked_lm_experiment(tmp_path / "nowhere.yaml")
    assert "--config" in caught.value.hint


def test_a_file_that_is_a_folder_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        reading.load_masked_lm_experiment(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1\nname: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml, line 2: not UTF-8") as caught:
        reading.load_masked_lm_experiment(tmp_path / "latin.yaml")
    assert caught.value.hint == "Save the file as UTF-8."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntrain: {num_epochs: 3\n", "PATH, line 3: expected ',' or '}'"),
        ("name: a\n\tseed: 3\n", "PATH, line 2: found character"),
        ("name: a\n---\nname: b\n", "PATH, line 2: but found another document"),
        ("name: 2024-13-45\n", "PATH: not YAML (month must be in 1..12"),
        ("name: \x00\n", "PATH: not YAML (unacceptable character"),
        ("name: !!python/name:os.system\n", "PATH, line 1: could not determine a constructor"),
        ("", "PATH: the file is empty; expected keys and values"),
        ("- name\n", "PATH: expected keys and values (name: ..., teacher: ...)"),
        ("name: a\nseed: 1\nname: b\n", "PATH, line 3: name is given twice, first in line 1"),
        (
            "optim:\n  lr: 1.0\n  eps: 1.0\n  lr: 2.0\n",
            "PATH, line 4: lr is given twice, first in line 2",
        ),
        ("data: {sources: [{hub: a, hub: b}]}", "PATH, line 1: hub is given twice"),
    ],
)
def test_a_file_that_is_not_an_experiment(path: Path, text: str, message: str) -> None:
    assert complaint_about(path, text).startswith(message)


def test_the_same_key_in_two_sections_and_merged_keys_are_no_doubles(path: Path) -> None:
    path.write_text(
        "name: a\nteacher: &bert {model: a}\nstudent: {<<: *bert, kind: checkpoint, model: b}\n"
        "data: {store: s, sources: [{files: x}, {files: y}]}\n",
        encoding="utf-8",
    )
    experiment = reading.load_masked_lm_experiment(path)
    assert experiment.model_source == "b"


# Unknown keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optin": {"lr": 1.0}}, "optin: unknown key; did you mean optim?"),
        ({"optim": {"lrr": 1.0}}, "optim.lrr: unknown key; did you mean optim.lr?"),
        ({"train": {"epochs": 1}}, "train.epochs: unknown key; did you mean train.num_epochs?"),
        (
            {"validation": {"evry": 1}},
            "validation.evry: unknown key; did you mean validation.every?",
        ),
        (
            {"student": {"num_layer": 3}},
            "student.num_layer: unknown key; did you mean student.num_layers?",
        ),
        (
            {"student": {"kind": "random", "lik": "x"}},
            "student.lik: unknown key; did you mean student.like?",
        ),
        (
            {"student": {"vocabulary": {"keeep": 9}}},
            "student.vocabulary.keeep: unknown key; did you mean student.vocabulary.keep?",
        ),
        (
            {"student": {"kind": "random", "vocabulary": {"keep": 9}}},
            "student.vocabulary: needs student.kind=copied; this section is random",
        ),
        (
            {"student": {"kind": "checkpoint", "model": "m", "new_haed": True}},
            "student.new_haed: unknown key; did you mean student.new_head?",
        ),
        (
            {"student": {"kind": "random", "layers": "top"}},
            "student.layers: needs student.kind=copied; this section is random",
        ),
        (
            {"student": {"model": "m"}},
            "student.model: needs student.kind=checkpoint; this section is copied, the default",
        ),
        (
            data(sources=[{"files": "a"}, {"files": "b", "fromat": "csv"}]),
            "data.sources.1.fromat: unknown key; did you mean data.sources.1.format?",
        ),
        (
            data(held_out_sources=[{"hub": "a/b", "splt": "x"}]),
            "data.held_out_sources.0.splt: unknown key; did you mean "
            "data.held_out_sources.0.split?",
        ),
        (
            data(sources=[{"hub": "a/b", "documents": "line"}]),
            "data.sources.0.documents: can only be used with files, not with hub",
        ),
        (
            data(sources=[{"hubb": "a/b"}]),
            "data.sources.0.hubb: unknown key; did you mean data.sources.0.hub? (and 1 more)",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    assert complaint(path, **changes) == f"PATH: {message}"


def test_a_mistyped_key_is_not_missing_as_well(path: Path) -> None:
    text = yaml.safe_dump(SMALLEST).replace("teacher:", "teachr:")
    assert complaint_about(path, text) == "PATH: teachr: unknown key; did you mean teacher?"


def test_a_key_like_no_other_is_answered_with_all(path: Path) -> None:
    message = complaint(path, validation={"qqq": 1})
    assert message == "PATH: validation.qqq: unknown key; there are every, num_sequences"


def test_several_mistakes_are_counted(path: Path) -> None:
    message = complaint(path, seed="x", optim={"lr": -1}, train={"num_epoch": 1})
    assert message.startswith("PATH: train.num_epoch: unknown key")
    assert message.endswith("(and 2 more)")


# Wrong values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"kind": "foo"}}, "student.kind: must be copied, checkpoint or random"),
        ({"student": {"kind": None}}, "student.kind: must be copied, checkpoint or random"),
        ({"student": {"kind": "checkpoint"}}, "student.model: this key is required"),
        ({"student": 3}, "student: this is a section: it takes keys below it, not a value"),
        ({"student": {"layers": "middle"}}, "student.layers: must be alternate, spread, top, bot"),
        ({"student": {"layers": 3}}, "student.layers: must be alternate, spread, top, bottom or a"),
        ({"student": {"layers": [0, -1]}}, "student.layers.1: must be at least 0 (given: -1)"),
        (
            {"student": {"layers": [0, 1.5]}},
            "student.layers.1: must be a whole number (given: 1.5)",
        ),
        ({"student": {"num_layers": "six"}}, "student.num_layers: must be a whole number"),
        (
            {"student": {"vocabulary": {"min_count": 3}}},
            "student.vocabulary: needs keep, such as {keep: 8000}, or {corpus: true}",
        ),
        (
            {"student": {"vocabulary": {"corpus": False}}},
            "student.vocabulary: needs keep, such as {keep: 8000}, or {corpus: true}",
        ),
        ({"student": {"vocabulary": 8000}}, "student.vocabulary: this is a section: it takes keys"),
        ({"student": {"vocabulary": {"keep": 0}}}, "student.vocabulary.keep: must be above 0"),
        (
            {"student": {"vocabulary": {"corpus": True, "min_count": 0}}},
            "student.vocabulary.min_count: must be above 0 (given: 0)",
        ),
        ({"train": 3}, "train: this is a section: it takes keys below it, not a value (given: 3)"),
        (
            {"train": None},
            "train: this is a section: it takes keys below it, not a value (given: n",
        ),
        ({"data": [1]}, "data: this is a section: it takes keys below it, not a value"),
        ({"data": {"store": "s"}}, "data.sources: this key is required"),
        (data(sources=[]), "data.sources: needs 1 or more"),
        (data(sources={"files": "a"}), "data.sources: must be a list, such as [a, b]"),
        (data(sources=["a.txt"]), "data.sources.0: this is a section: it takes keys below it"),
        (data(sources=[{"files": [1]}]), "data.sources.0.files.0: must be text; put it in quotes"),
        (data(store=7), "data.store: must be text; put it in quotes (given: 7)"),
        (data(max_length=7), "data.max_length: must be at least 8 (given: 7)"),
        ({"seed": 1.0}, "seed: must be a whole number (given: 1.0)"),
        ({"seed": "1"}, "seed: must be a whole number (given: '1')"),
        ({"seed": True}, "seed: must be a whole number (given: true)"),
        ({"optim": {"lr": True}}, "optim.lr: must be a number (given: true)"),
        ({"optim": {"lr": "fast"}}, "optim.lr: must be a number (given: 'fast')"),
        ({"optim": {"lr": None}}, "optim.lr: must be a number (given: null)"),
        ({"optim": {"lr": float("inf")}}, "optim.lr: must be a finite number (given: inf)"),
        ({"optim": {"betas": [0.9, 1.0]}}, "optim.betas.1: must be below 1 (given: 1.0)"),
        ({"optim": {"betas": 0.9}}, "optim.betas: must be a list, such as [a, b] (given: 0.9)"),
        ({"masking": {"mask_share": 1.5}}, "masking.mask_share: must be at most 1 (given: 1.5)"),
        ({"loss": {"temperature": 0}}, "loss.temperature: must be at least 0.01 (given: 0)"),
        ({"loss": {"positions": "some"}}, "loss.positions: must be all, masked or {sample: SHARE}"),
        ({"loss": {"positions": 0.5}}, "loss.positions: must be all, masked or {sample: SHARE}"),
        ({"loss": {"positions": {"sample": 1}}}, "loss.positions.sample: must be below 1"),
        ({"loss": {"positions": {"share": 0.5}}}, "loss.positions.share: unknown key"),
        ({"teacher": {"model": "m", "precision": "fp16"}}, "teacher.precision: must be auto, fp32"),
        (
            {"student": {"kind": "checkpoint", "model": "m", "new_head": 1}},
            "student.new_head: must be true or false (given: 1)",
        ),
        ({"name": "../up"}, "name: must be letters, digits, '.', '_' and '-'"),
    ],
)
def test_a_wrong_value_is_answered_in_plain_words(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    found = complaint(path, **changes)
    assert found.startswith(f"PATH: {message}")
    assert "more)" not in found


def test_an_unknown_kind_shows_what_was_given(path: Path) -> None:
    message = complaint(path, student={"kind": "foo"})
    assert message == "PATH: student.kind: must be copied, checkpoint or random (given: 'foo')"


def test_a_key_that_is_no_word(path: Path) -> None:
    assert complaint_about(path, yaml.safe_dump(SMALLEST | {1: 2})) == (
        "PATH: 1: not a key; keys are words (given: 1)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "without a teacher, student.source must name a model"),
        (
            {"teacher": None, "student": {"kind": "random"}},
            "without a teacher, student.like must name a model",
        ),
        (
            {"teacher": None, "student": {"source": "m"}, "loss": weights(masked_lm=0)},
            "without a teacher, loss.masked_lm.weight must be above 0",
        ),
        (
            {"train": {"tokens_per_micro_batch": 127}},
            "train.tokens_per_micro_batch 127 is under data.max_length 128",
        ),
        (data(min_length=9, max_length=8), "data: min_length 9 is over max_length 8"),
        ({"masking": {"mask_share": 0.95}}, "masking: mask_share + random_share is over 1"),
        (
            {"loss": weights(soft_targets=0, masked_lm=0, hidden_cosine=0)},
            "loss: every weight is 0: there is nothing to learn",
        ),
    ],
)
def test_what_does_not_fit_together(path: Path, changes: dict[str, Any], message: str) -> None:
    assert complaint(path, **changes) == f"PATH: {message}"


def test_a_run_has_one_length(tmp_path):
    """Steps and tokens cannot both say how long it is."""
    tree = {"name": "x", "teacher": {"model": "t"}}
    tree |= {"data": {"sources": [{"files": "a.jsonl"}], "store": "s"}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    tokens = reading.load_experiment(path, ["train.max_tokens=3000000000"]).train
    assert (tokens.max_tokens, tokens.max_steps, tokens.ends_with_epochs) == (
        3 * 10**9,
        None,
        False,
    )
    assert reading.load_experiment(path).train.ends_with_epochs
    with pytest.raises(ConfigError, match="train: max_steps and max_tokens both say how long"):
        reading.load_experiment(path, ["train.max_tokens=9", "train.max_steps=9"])
