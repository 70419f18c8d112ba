"""Losses on distributions are refused where the output of a task is a number."""

from pathlib import Path

import pytest
import yaml
from loss_settings import weights

from distilcli.config.losses import TaskLossConfig
from distilcli.config.reading import load_experiment
from distilcli.errors import ConfigError

REGRESSION = {"kind": "regression"} | {
    split: {"files": f"{split}.csv"} for split in ("train", "dev")
}
NOT_FOR_NUMBERS = [name for name, term in TaskLossConfig().terms.items() if not term.for_numbers]


@pytest.mark.parametrize("name", NOT_FOR_NUMBERS)
@pytest.mark.parametrize("task", [REGRESSION, {"kind": "glue", "name": "STS-B"}])
def test_a_loss_on_distributions_is_refused_for_numbers(tmp_path: Path, name, task):
    tree = {"name": "n", "teacher": {"model": "t"}, "student": {"kind": "copied"}, "task": task}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree | {"loss": weights(**{name: 0.5})}), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_experiment(path)
    assert error.value.message == (
        f"{path}: loss.{name} compares distributions, and the output of this task is a number; "
        f"set loss.{name}.weight=0, soft_targets are there for numbers too"
    )
    assert load_experiment(path, [f"loss.{name}.weight=0"]).loss.weights[name] == 0


def test_reverse_kl_is_among_the_refused():
    assert "reverse_kl" in NOT_FOR_NUMBERS
