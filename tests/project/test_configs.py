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
from distilcli.suites import ablations
from distilcli.suites import plan as suite_plan

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted((ROOT / "configs").glob("*.yaml"))
STAGED = [path for path in ALL if path.stem == "stages"]
CONFIGS = [path for path in ALL if path not in STAGED]
TASKS = {
    "deberta-teacher",
    "ensemble",
    "finetuned-teacher",
    "imdb",
    "mrpc",
    "pos",
    "reranker",
    "soft-labels",
    "squad",
    "sst2",
    "stsb",
    "unlabelled",
}
EXPECTED = TASKS | {
    "embedding",
    "builtin-student",
    "builtin-teacher",
    "builtin-teacher-512",
    "distilbert-base-cased",
    "distilbert-base-multilingual-cased",
    "distilbert-base-uncased",
    "general-student",
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
        task = experiment.task
        sources = [task.train, getattr(task, "transfer", None), task.dev]
    named = [s.files for s in sources if isinstance(s, (FilesSource, RowFiles))]
    return [name for files in named for name in files]


def test_the_promised_experiments_ship() -> None:
    assert {path.stem for path in CONFIGS} >= EXPECTED
    others = {path.name for path in (ROOT / "configs").iterdir() if path not in ALL}
    assert len(STAGED) == 1
    assert others == {"schema.json", "suites", "ablations"}
    suites = {path.stem for path in (ROOT / "configs" / "suites").iterdir()}
    assert suites == {"english", "english-five"}


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


TEXT_ABLATIONS = {
    "distilbert-table4": ["no-soft-targets", "no-cosine", "no-masked-lm", "random-start"],
    "maps": ["spread", "top", "bottom"],
    "losses": ["hidden", "relations", "relations-alone"],
    "temperature": ["t1", "t3", "t4", "t8"],
}
TASK_ABLATIONS = {
    "mrpc-teachers": ["first", "second", "third"],
    "sts-b-layers": ["four", "three", "two", "one"],
}


def test_the_ablations_are_all_there() -> None:
    found = (ROOT / "configs" / "ablations").iterdir()
    assert {path.stem for path in found} == TEXT_ABLATIONS.keys() | TASK_ABLATIONS.keys()


@pytest.mark.parametrize("name", TEXT_ABLATIONS)
def test_an_ablation_compares_runs_of_one_length_with_the_recipe_of_the_quickstart(
    name: str,
) -> None:
    """All of them share their base, so that its runs can be read across files."""
    path = ROOT / "configs" / "ablations" / f"{name}.yaml"
    assert header_of(path)[0] == f"distilcli suite configs/ablations/{path.name} --seeds 3 --jobs 2"
    ablation = ablations.load_ablation(path, [])
    assert ablation.name == name
    runs = ablations.plan_ablation(ablation, 1, path)
    assert [run.model for run in runs] == ["base", *TEXT_ABLATIONS[name]]
    assert {run.experiment.train.max_steps for run in runs} == {80}
    quickstart = reading.load_masked_lm_experiment(ROOT / "configs" / "quickstart.yaml")
    base, *changed = (run.experiment for run in runs)
    assert isinstance(base, MaskedLMExperiment)
    for section in ("teacher", "student", "data", "masking", "loss", "optim"):
        assert getattr(base, section) == getattr(quickstart, section)
    same = {"name": "base-1"}
    assert all(experiment.model_copy(update=same) != base for experiment in changed)


@pytest.mark.parametrize("name", TASK_ABLATIONS)
def test_an_ablation_of_a_task_has_the_settings_of_the_suite(name: str) -> None:
    """So that its runs can be read beside those of the suite, whose teachers it takes."""
    path = ROOT / "configs" / "ablations" / f"{name}.yaml"
    assert header_of(path)[0] == f"distilcli suite configs/ablations/{path.name} --seeds 3 --jobs 2"
    runs = ablations.plan_ablation(ablations.load_ablation(path, []), 1, path)
    assert [run.model for run in runs] == ["base", *TASK_ABLATIONS[name]]
    file = ROOT / "configs" / "suites" / "english-five.yaml"
    suite = suite_plan.plan(suite_plan.load_suite(file), 1, file)
    base = runs[0].experiment
    assert isinstance(base, TaskExperiment)
    distilled = next(
        run.experiment
        for run in suite
        if run.model == "distilled" and run.experiment.task == base.task
    )
    for section in ("loss", "optim", "train", "augmentation"):
        assert getattr(base, section) == getattr(distilled, section)
    assert base.teacher is not None
    assert base.teacher.model == f"runs/english-five/{base.task.name}/teacher-1/student"


def test_five_tasks_have_the_settings_of_the_whole_suite() -> None:
    """But for how many tokens a pass takes, which changes no gradient, and the rows of SST-2."""
    files = [ROOT / "configs" / "suites" / name for name in ("english.yaml", "english-five.yaml")]
    whole, five = (suite_plan.load_suite(file) for file in files)
    assert set(five.tasks) == {"CoLA", "MRPC", "RTE", "STS-B", "SST-2"}
    rows = whole.tasks["SST-2"].task.model_copy(update={"folder": "glue/SST-2-10k"})
    expected = whole.tasks | {"SST-2": whole.tasks["SST-2"].model_copy(update={"task": rows})}
    assert five.tasks == {name: expected[name] for name in five.tasks}
    assert five.train == whole.train | {"tokens_per_micro_batch": 4096}
    for section in ("teacher", "student", "loss", "optim"):
        assert getattr(five, section) == getattr(whole, section)


def test_what_table_4_leaves_out() -> None:
    """By the names of its changes; without the weights of the teacher it is 3.69 points lower."""
    path = ROOT / "configs" / "ablations" / "distilbert-table4.yaml"
    ablation = ablations.load_ablation(path, [])
    found = {run.model: run.experiment for run in ablations.plan_ablation(ablation, 1, path)}
    terms = {"no-soft-targets": "soft_targets", "no-cosine": "hidden_cosine"}
    terms |= {"no-masked-lm": "masked_lm"}
    weights = found["base"].loss.weights
    for name, term in terms.items():
        assert weights[term] > 0
        assert found[name].loss.weights == weights | {term: 0.0}
    assert found["random-start"].loss == found["base"].loss
    assert found["random-start"].student.kind == "random"
    assert ablation.published is not None
    figures = {"no-soft-targets": -2.96, "no-cosine": -1.46, "no-masked-lm": -0.31}
    assert ablation.published.differences == figures | {"random-start": -3.69}


def test_relations_alone_are_trained_alone() -> None:
    path = ROOT / "configs" / "ablations" / "losses.yaml"
    runs = ablations.plan_ablation(ablations.load_ablation(path, []), 1, path)
    found = {run.model: run.experiment.loss.weights for run in runs}
    for name, added in (("hidden", "hidden_states"), ("relations", "attention_relations")):
        assert found[name] == found["base"] | {added: 1.0}
    alone = {term for term, weight in found["relations-alone"].items() if weight}
    assert alone == {"attention_relations"}
