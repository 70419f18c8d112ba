"""Every experiment that ships is valid, is named after its file and says how to run it."""

from pathlib import Path

import pytest

from distilcli.config import reading
from distilcli.config.data import FilesSource, RowFiles
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.schedules import Schedule
from distilcli.config.stages import StagedExperiment
from distilcli.config.tasks import GlueTask
from distilcli.files import paths
from distilcli.suites import plan as suite_plan

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted((ROOT / "configs").glob("*.yaml"))
STAGED = [path for path in ALL if path.stem == "stages"]
CONFIGS = [path for path in ALL if path not in STAGED]
TASKS = {"ensemble", "finetuned-teacher", "imdb", "mrpc", "pos", "squad", "sst2", "stsb"}
EXPECTED = TASKS | {
    "builtin-student",
    "builtin-teacher",
    "builtin-teacher-512",
    "distilbert-base-cased",
    "distilbert-base-multilingual-cased",
    "distilbert-base-uncased",
    "quickstart",
    "reactions",
}

each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def header_of(path: Path) -> list[str]:
    """The comment lines that the file begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def files_of(experiment: MaskedLMExperiment | TaskExperiment) -> list[str]:
    """The files and folders of data that an experiment names."""
    if isinstance(experiment, MaskedLMExperiment):
        sources = [*experiment.data.sources, *(experiment.data.held_out_sources or [])]
    elif isinstance(experiment.task, GlueTask):
        assert experiment.task.folder is not None
        return [experiment.task.folder]
    else:
        sources = [experiment.task.train, experiment.task.dev]
    named = [s.files for s in sources if isinstance(s, (FilesSource, RowFiles))]
    return [name for files in named for name in files]


def test_the_promised_experiments_ship() -> None:
    assert {path.stem for path in CONFIGS} >= EXPECTED
    others = {path.name for path in (ROOT / "configs").iterdir() if path not in ALL}
    assert len(STAGED) == 1
    assert others == {"schema.json", "suites", "ablations"}
    assert [path.name for path in (ROOT / "configs" / "suites").iterdir()] == ["english.yaml"]


@each_config
def test_config_loads(path: Path) -> None:
    """Every shipped experiment is valid and has the name of its file."""
    experiment = reading.load_experiment(path)
    assert experiment.name == path.stem
    assert isinstance(experiment, TaskExperiment) == (path.stem in TASKS)


@each_config
def test_config_survives_dump_and_load(path: Path, tmp_path: Path) -> None:
    experiment = reading.load_experiment(path)
    copy = tmp_path / "experiment.yaml"
    copy.write_text(reading.dump(experiment), encoding="utf-8")
    assert reading.load_experiment(copy) == experiment


def test_the_experiment_with_stages_needs_nothing_but_the_package() -> None:
    """And it shows what stages are for: other data, other losses, a value that changes."""
    [path] = STAGED
    staged = reading.load_any_experiment(path)
    assert isinstance(staged, StagedExperiment)
    assert staged.name == path.stem
    first, second = (stage.experiment for stage in staged.stages)
    assert isinstance(first, MaskedLMExperiment)
    assert isinstance(second, MaskedLMExperiment)
    assert first.data.max_length < second.data.max_length
    assert first.loss.weights["soft_targets"] == 0 < second.loss.weights["soft_targets"]
    assert isinstance(second.loss.temperature, Schedule)
    assert {*files_of(first), *files_of(second)} == {"builtin:text.jsonl.gz"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_header_gives_the_command_and_what_it_needs(path: Path) -> None:
    header = header_of(path)
    assert header[0] == f"distilcli train --config configs/{path.name}"
    assert any(line.startswith("Needs ") for line in header)


@each_config
def test_paths_are_relative(path: Path) -> None:
    """Shipped experiments read and write below the folder they are run in."""
    experiment = reading.load_experiment(path)
    names = [*files_of(experiment), experiment.output_dir]
    if isinstance(experiment, MaskedLMExperiment):
        names.append(experiment.data.store)
    assert len(names) > 1 or path.stem.startswith("distilbert")
    assert not [name for name in names if name.startswith(("/", "~", "../"))]


@each_config
def test_header_overrides_are_valid(path: Path) -> None:
    """What a header offers as `key.sub=value` is accepted, each line by itself."""
    for line in header_of(path)[:-1]:  # the last one names the schema
        words = [word for word in line.rstrip("\\").split() if "=" in word and "." in word]
        overrides = [word for word in line.rstrip("\\").split() if "=" in word] if words else []
        if overrides:
            reading.load_experiment(path, overrides)


@pytest.mark.parametrize("name", ["distilbert-base-uncased", "distilbert-base-cased"])
def test_the_paper_run_has_the_release_settings(name: str) -> None:
    experiment = reading.load_masked_lm_experiment(ROOT / "configs" / f"{name}.yaml")
    loss, optim = experiment.loss, experiment.optim
    assert loss.temperature == 2.0
    assert {name: weight for name, weight in loss.weights.items() if weight} == {
        "soft_targets": 5.0,
        "masked_lm": 2.0,
        "hidden_cosine": 1.0,
    }
    assert (optim.lr, optim.betas, optim.eps) == (5e-4, (0.9, 0.98), 1e-6)
    assert (optim.warmup_fraction, optim.max_grad_norm, optim.weight_decay) == (0.05, 5.0, 0.0)
    assert experiment.masking.smoothing == 0.7
    assert experiment.train.global_batch_size == 4000
    assert experiment.train.num_epochs == 3


def test_builtin_files_of_the_configs_ship() -> None:
    for path in CONFIGS:
        for name in files_of(reading.load_experiment(path)):
            if name.startswith(paths.BUILTIN_PREFIX):
                assert Path(paths.resolve_path(name)).is_file()


def test_the_suite_has_all_kinds_of_tasks() -> None:
    path = ROOT / "configs" / "suites" / "english.yaml"
    assert header_of(path)[0].startswith("distilcli suite configs/suites/english.yaml")
    suite = suite_plan.load_suite(path)
    assert suite.name == path.stem
    assert set(suite.tasks) == {"CoLA", "IMDb", "MRPC", "POS", "RTE", "SQuAD", "SST-2", "STS-B"}
    assert len(suite_plan.plan(suite, 3, path)) == 3 * 3 * len(suite.tasks)
