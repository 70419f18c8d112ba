"""Settings of several teachers: their shares of the mean, and what cannot be averaged."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distilcli.config.reading import load_experiment
from distilcli.errors import ConfigError

TASK = {
    "kind": "classification",
    "text": "text",
    "train": {"files": ["train.tsv"]},
    "dev": {"files": ["dev.tsv"]},
}
MASKED_LM = {"data": {"sources": [{"files": ["text.txt"]}], "store": "store"}}
KINDS: dict[str, dict[str, Any]] = {
    "masked LM": MASKED_LM,
    "task": {"task": TASK, "student": {"num_layers": 2}},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def load(folder: Path, kind: str, *overrides: str, others: Any = ({"model": "b"},), **teacher: Any):
    tree = {"name": "several", "teacher": {"model": "a", "others": list(others)} | teacher}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree | KINDS[kind]), encoding="utf-8")
    return load_experiment(path, overrides)


@each_kind
@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1.0], [1.0]),
        ([0.2], [1.0]),
        ([1.0, 1.0], [0.5, 0.5]),
        ([2.0, 1.0, 5.0], [0.25, 0.125, 0.625]),
        ([1e6, 1e-6], [1.0, 1e-12]),
    ],
)
def test_shares_add_up_to_one(tmp_path, kind, weights, shares):
    first, *others = weights
    sections = [{"model": f"m{weight}", "weight": weight} for weight in others]
    teacher = load(tmp_path, kind, others=sections, weight=first).teacher
    assert teacher.shares == pytest.approx(shares, rel=1e-9)
    assert sum(teacher.shares) == pytest.approx(1.0)
    keys = ["teacher", *(f"teacher.others.{index}" for index in range(len(others)))]
    assert list(teacher.by_key) == keys
    assert [one.weight for one in teacher.by_key.values()] == weights


def test_one_teacher_is_all_of_the_mean(tmp_path):
    teacher = load(tmp_path, "task", others=()).teacher
    assert teacher.shares == (1.0,)
    assert list(teacher.by_key) == ["teacher"]


@each_kind
@pytest.mark.parametrize("weight", [0.0, -1.0, 1e-7, 1e7, float("nan")])
def test_a_teacher_has_a_weight_above_0(tmp_path, kind, weight):
    with pytest.raises(ConfigError, match=r"teacher\.others\.0\.weight: must be"):
        load(tmp_path, kind, others=[{"model": "b", "weight": weight}])
    with pytest.raises(ConfigError, match=r"teacher\.weight: must be"):
        load(tmp_path, kind, weight=weight)


def test_logits_of_several_teachers_are_not_averaged(tmp_path):
    with pytest.raises(ConfigError, match=r"loss\.logit_mse compares logits, which the mean of"):
        load(tmp_path, "masked LM", "loss.logit_mse.weight={from: 0.0, to: 1.0}")
    load(tmp_path, "masked LM", "loss.logit_mse.weight=1.0", others=())


@each_kind
def test_teachers_that_no_loss_would_look_at_are_refused(tmp_path, kind):
    hidden = "loss.soft_targets.weight=0.0", "loss.hidden_cosine.weight=1.0"
    with pytest.raises(ConfigError, match=r"teacher\.others would run in vain"):
        load(tmp_path, kind, *hidden)
    load(tmp_path, kind, *hidden, others=())
    load(tmp_path, kind, *hidden, "loss.jensen_shannon.weight={from: 1.0, to: 0.0}")


@each_kind
@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([{"weight": 1.0}], "teacher.others.0.model: this key is required"),
        ([{"model": "b", "weights": 1.0}], "did you mean teacher.others.0.weight?"),
        ([{"model": "b", "cache": None}], "teacher.others.0.cache: unknown key"),
        ([{"model": "b"}] * 64, "teacher.others: takes 63 at most"),
    ],
)
def test_what_is_wrong_with_one_of_them_is_said_with_its_key(tmp_path, kind, others, said):
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, kind, others=others)
    assert said in raised.value.message
