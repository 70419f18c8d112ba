"""Weights and temperatures that change over a run: their values, and mistakes in them."""

import math
from pathlib import Path

import pytest
import yaml

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.losses import LossConfig, TaskLossConfig
from distilcli.config.reading import dump, load_experiment
from distilcli.errors import ConfigError

MASKED_LM = {
    "name": "x",
    "teacher": {"model": "t"},
    "data": {"sources": [{"files": "a.jsonl"}], "store": "s"},
}


def loss(**of_soft_targets: object) -> LossConfig:
    return LossConfig.model_validate({"soft_targets": of_soft_targets})


def test_linear_and_cosine_by_hand():
    weight = loss(weight={"from": 4.0, "to": 1.0}).soft_targets.weight
    assert [weight.at(p) for p in (0.0, 0.25, 0.5, 1.0)] == [4.0, 3.25, 2.5, 1.0]
    weight = loss(weight={"from": 4.0, "to": 1.0, "schedule": "cosine"}).soft_targets.weight
    assert (weight.at(0.0), weight.at(1.0)) == (4.0, 1.0)
    assert weight.at(0.5) == pytest.approx(2.5, rel=1e-15)
    # 1 - cos(pi/4), halved, of the way down by 3.
    assert weight.at(0.25) == pytest.approx(4.0 - 1.5 * (1.0 - math.sqrt(0.5)), rel=1e-15)


@pytest.mark.parametrize("ends", [(0.1, 0.3), (0.3, 0.1), (0.7, 0.7), (0.0, 1e6)])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_ends_are_exact_and_nothing_lies_beyond_them(ends, schedule):
    tree = {"from": ends[0], "to": ends[1], "schedule": schedule}
    weight = loss(weight=tree).soft_targets.weight
    values = [weight.at(step / 997) for step in range(998)]
    assert (values[0], values[-1]) == ends
    assert min(values) == min(ends)
    assert max(values) == max(ends)
    assert sorted(values, reverse=ends[0] > ends[1]) == values


def test_a_term_that_is_ever_wanted_is_asked_for():
    rising = loss(weight={"from": 0.0, "to": 5.0})
    falling = loss(weight={"from": 5.0, "to": 0.0})
    assert rising.weights["soft_targets"] == falling.weights["soft_targets"] == 5.0
    never = loss(weight={"from": 0.0, "to": 0.0})
    assert never.weights["soft_targets"] == 0.0
    labels = {"labels": {"weight": {"from": 1, "to": 0}}, "soft_targets": {"weight": 0}}
    assert TaskLossConfig.model_validate(labels).asks_for_labels
    assert not TaskLossConfig.model_validate(labels).asks_for_teacher


def test_each_term_may_have_a_temperature_of_its_own():
    found = LossConfig.model_validate(
        {"temperature": 3, "reverse_kl": {"temperature": 1.5}}
    ).temperatures
    assert (found["soft_targets"], found["reverse_kl"]) == (3.0, 1.5)


def test_what_is_written_down_is_read_back(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(MASKED_LM))
    overrides = ["loss.temperature={from: 4e0, to: 1}", "loss.masked_lm.weight={from: 0, to: 2}"]
    experiment = load_experiment(path, overrides)
    path.write_text(dump(experiment))
    assert load_experiment(path) == experiment
    assert yaml.safe_load(dump(experiment))["loss"]["temperature"] == {
        "from": 4.0,
        "to": 1.0,
        "schedule": "linear",
    }


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("weight={form: 4, to: 1}", "weight.form: unknown key; did you mean "),
        ("weight={from: 4}", "weight.to: this key is required"),
        ("weight={from: -4, to: 0}", "weight.from: must be at least 0 (given: -4)"),
        ("weight={from: 1, to: 1e-12}", "weight.to: must be 0 or at least 1e-09 (given: '1e-12')"),
        ("weight=-3", "weight: must be at least 0 (given: -3)"),
        ("weight=[1, 2]", "weight: must be a number"),
        ("temperature={from: 1, to: 0}", "temperature.to: must be at least 0.01 (given: 0)"),
        (
            "temperature={from: 1, to: 2, schedule: cos}",
            "temperature.schedule: must be linear or cosine (given: 'cos')",
        ),
    ],
)
def test_mistakes_are_named_with_their_key(tmp_path: Path, override: str, said: str):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(MASKED_LM))
    with pytest.raises(ConfigError) as error:
        load_experiment(path, [f"loss.soft_targets.{override}"])
    assert f": loss.soft_targets.{said}" in error.value.message


def test_only_weights_of_nothing_are_refused():
    nothing = {name: {"weight": {"from": 0, "to": 0}} for name in LossConfig().terms}
    with pytest.raises(ValueError, match="every weight is 0"):
        MaskedLMExperiment.model_validate(MASKED_LM | {"loss": nothing})
