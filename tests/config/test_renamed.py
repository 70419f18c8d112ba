"""Keys that were called otherwise: the new name is told, and what a run wrote is read."""

from pathlib import Path

import pytest
import yaml
from loss_settings import weights

from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.losses import LossConfig, TaskLossConfig
from distilcli.config.reading import load_experiment, load_of_run
from distilcli.config.renamed import with_new_names
from distilcli.errors import ConfigError
from distilcli.suites.plan import load_suite, plan

MASKED_LM = {
    "name": "n",
    "teacher": {"model": "t"},
    "data": {"sources": [{"files": "f"}], "store": "s"},
}
SOURCES = {split: {"files": f"{split}.csv"} for split in ("train", "dev")}
TASK = {"kind": "classification"} | SOURCES
ON_TASK = {"name": "n", "teacher": {"model": "t"}, "student": {"kind": "copied"}, "task": TASK}
OLD = {"alpha_ce": 4.0, "alpha_mlm": 3.0, "alpha_cos": 0.5, "alpha_mse": 0.25}
NEW = weights(soft_targets=4.0, masked_lm=3.0, hidden_cosine=0.5, logit_mse=0.25)
OLD_OF_TASK = {"alpha_ce": 4.0, "alpha_hard": 3.0, "alpha_cos": 0.5}
NEW_OF_TASK = weights(soft_targets=4.0, labels=3.0, hidden_cosine=0.5)


def write(folder: Path, tree: dict) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("alpha_ce", "soft_targets"),
        ("alpha_mlm", "masked_lm"),
        ("alpha_cos", "hidden_cosine"),
        ("alpha_mse", "logit_mse"),
    ],
)
def test_an_old_key_is_answered_with_the_new_one(tmp_path, key, now):
    said = f"loss.{key} is now loss.{now}.weight"
    path = write(tmp_path, MASKED_LM | {"loss": {key: 1.0}})
    with pytest.raises(ConfigError) as error:
        load_experiment(path)
    assert error.value.message == f"{path}: {said}"
    path = write(tmp_path, MASKED_LM)
    with pytest.raises(ConfigError) as error:
        load_experiment(path, [f"loss.{key}=1"])
    assert error.value.message == f"override 'loss.{key}=1': {said}"


@pytest.mark.parametrize(
    ("key", "now"),
    [("alpha_ce", "soft_targets"), ("alpha_hard", "labels"), ("alpha_cos", "hidden_cosine")],
)
def test_so_is_that_of_a_task(tmp_path, key, now):
    path = write(tmp_path, ON_TASK | {"loss": {key: 1.0}})
    with pytest.raises(ConfigError) as error:
        load_experiment(path)
    assert error.value.message == f"{path}: loss.{key} is now loss.{now}.weight"


def test_all_of_a_file_are_said_at_once(tmp_path):
    path = write(tmp_path, MASKED_LM | {"loss": {"alpha_ce": 1, "alpha_cos": 2, "beta": 3}})
    with pytest.raises(ConfigError) as error:
        load_experiment(path, ["loss.alpha_mlm=1"])
    assert error.value.message == (
        f"{path}: loss.alpha_ce is now loss.soft_targets.weight, "
        "loss.alpha_cos is now loss.hidden_cosine.weight (and 2 more)"
    )


def test_a_suite_says_so_as_well(tmp_path):
    student = {"kind": "copied", "num_layers": 2}
    tasks = {"A": {"task": TASK, "loss": {"alpha_hard": 0.0}}}
    path = write(tmp_path, {"name": "s", "teacher": "t", "student": student, "tasks": tasks})
    with pytest.raises(ConfigError, match=r"loss\.alpha_hard is now loss\.labels\.weight"):
        plan(load_suite(path), 1, path)


def test_what_a_run_wrote_is_read(tmp_path):
    found = load_of_run(write(tmp_path, MASKED_LM | {"loss": OLD | {"temperature": 3.0}}))
    assert isinstance(found, MaskedLMExperiment)
    assert found.loss == LossConfig.model_validate(NEW | {"temperature": 3.0})
    found = load_of_run(write(tmp_path, ON_TASK | {"loss": OLD_OF_TASK}), ["seed=7"])
    assert isinstance(found, TaskExperiment)
    assert found.loss == TaskLossConfig.model_validate(NEW_OF_TASK)
    assert found.seed == 7
    with pytest.raises(ConfigError, match=r"loss\.alpha_ce is now"):
        load_of_run(write(tmp_path, MASKED_LM), ["loss.alpha_ce=1"])


def test_new_names_leave_the_rest_as_it_is():
    tree = MASKED_LM | {"loss": OLD | {"temperature": 3.0}, "unknown": {"alpha_ce": 1}}
    before = yaml.safe_dump(tree)
    found = with_new_names(tree, MaskedLMExperiment)
    assert found == MASKED_LM | {"loss": NEW | {"temperature": 3.0}, "unknown": {"alpha_ce": 1}}
    assert yaml.safe_dump(tree) == before
    assert with_new_names(found, MaskedLMExperiment) == found
    both = {"loss": {"alpha_ce": 1.0} | weights(soft_targets=2.0)}
    assert with_new_names(both, MaskedLMExperiment) == {"loss": weights(soft_targets=2.0)}
    odd = {"loss": {"alpha_ce": 1.0, "soft_targets": 2.0}}
    assert with_new_names(odd, MaskedLMExperiment) == {"loss": {"soft_targets": 2.0}}


def test_every_new_name_is_one():
    for section in (LossConfig, TaskLossConfig):
        for old, new in section.renamed.items():
            name, key = new.split(".")
            assert old not in section.model_fields
            assert key in type(getattr(section(), name)).model_fields
