"""Two commands in one folder: one of them does its work, the other is refused, nothing is mixed.

What happens between a look and the lock is made to happen there; processes that overlap are held
where they are until the other has answered.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_experiments import listing, metrics, run, start_function
from tiny_suites import refused, suite_file
from tiny_tasks import TinyTasks, make_tasks

from distilcli.cli.app import main
from distilcli.config.reading import load_masked_lm_experiment
from distilcli.distillation import masked_lm
from distilcli.files.atomic import locked
from distilcli.training.run_folder import RunFolder

SHORT = ["train.max_steps=2", "train.save_every=2", "validation.every=0"]


def command(name: str, config: Path, folder: Path, *more: str) -> list[str]:
    return [name, "--config", str(config), f"output_dir={folder}", *more]


def main_with_another(*arguments: str) -> None:
    """A command; another run begins after it has looked at the folder and before it locks it."""
    *words, config, other_folder = arguments
    locked = RunFolder.locked

    def after_another(self: RunFolder, *given: Any) -> Any:
        other = load_masked_lm_experiment(Path(config), [f"output_dir={other_folder}", "seed=7"])
        RunFolder(self.root).begin(other, force=False)
        RunFolder(self.root).append_metrics([{"step": 1, "loss/total": 0.5}])
        return locked(self, *given)

    RunFolder.locked = after_another  # type: ignore[method-assign]
    sys.argv = ["distilcli", *words]
    main()


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("train", [], "this run folder exists"),
        ("train", ["--resume"], "of another experiment; these keys differ: seed"),
        ("init-student", [], "training has begun here"),
        ("init-student", ["--force"], "training has begun here"),
    ],
)
def test_a_run_that_begins_between_look_and_lock_is_seen(tiny_world, tmp_path, name, option, said):
    words = command(name, tiny_world.config, tmp_path, *option)
    more = [str(tiny_world.config), str(tmp_path)]
    finished = start_function(main_with_another, [*words, *more]).wait()
    assert finished.code == 2, finished.stderr
    assert said in finished.stderr
    folder = tmp_path / "tiny"
    assert load_masked_lm_experiment(folder / "experiment.yaml").seed == 7
    assert metrics(folder) == [{"step": 1, "loss/total": 0.5}]
    assert sorted(path.name for path in folder.iterdir()) == [
        "environment.json",
        "experiment.yaml",
        "metrics.jsonl",
    ]


def hold_before_the_store(*arguments: str) -> None:
    """`train`, which has its folder and is held before it prepares its text."""
    *words, gate = arguments
    ensure_store = masked_lm.ensure_store

    def held(*given: Any) -> Any:
        Path(f"{gate}.held").touch()
        os.read(os.open(gate, os.O_RDONLY), 1)
        return ensure_store(*given)

    masked_lm.ensure_store = held
    sys.argv = ["distilcli", *words]
    main()


def test_of_two_starts_at_once_one_is_refused(tiny_world, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    words = command("train", tiny_world.config, tmp_path, *SHORT)
    first = start_function(hold_before_the_store, [*words, str(gate)])
    assert first.wait_until(Path(f"{gate}.held").exists)
    for other in (["seed=7"], ["seed=7", "--resume", "train.timeout_seconds=0.1"]):
        second = run(*words, *other)
        assert second.code == 2
        assert f"error: {tmp_path / 'tiny'}: another process trains here" in second.stderr
    with_init = run(*command("init-student", tiny_world.config, tmp_path))
    assert with_init.code == 2
    assert "another process trains here" in with_init.stderr
    gate.write_text("x")
    finished = first.wait()
    assert finished.code == 0, finished.stderr
    assert [record["step"] for record in metrics(tmp_path / "tiny")] == [1, 2]
    assert load_masked_lm_experiment(tmp_path / "tiny" / "experiment.yaml").seed == 42


def test_a_mistake_leaves_no_folder_and_no_lock(tiny_world, tmp_path):
    """The folder is locked before anything is loaded, and made for that."""
    words = command("train", tiny_world.config, tmp_path / "runs", "student.num_layers=99")
    finished = run(*words)
    assert finished.code == 2
    assert "student.num_layers 99" in finished.stderr
    assert list(tmp_path.iterdir()) == []


def hold(path: str, gate: str) -> None:
    with locked(Path(path), 0.0):
        Path(f"{gate}.held").touch()
        os.read(os.open(gate, os.O_RDONLY), 1)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def held(tmp_path) -> Callable[[Path], None]:
    """Keeps another process in a folder to the end of the test."""
    running = []

    def hold_folder(folder: Path) -> None:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        running.append(start_function(hold, [str(folder / ".lock"), str(gate)]))
        assert running[0].wait_until(Path(f"{gate}.held").exists)

    yield hold_folder
    for process in running:
        process.kill()


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_suite_at_a_time(tmp_path, tasks, held):
    file = suite_file(tmp_path / "suite.yaml", tasks, "regression")
    held(tmp_path / "runs" / "whole")
    before = listing(tmp_path / "runs")
    message = refused(str(file), "--seeds", "1")
    assert message == f"{tmp_path / 'runs' / 'whole'}: another process trains here"
    assert listing(tmp_path / "runs") == before


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("name", ["student-1.yaml", "student-1.log", "student-1/metrics.jsonl"])
def test_a_suite_replaces_no_file_of_someone_else(tmp_path, tasks, name):
    file = suite_file(tmp_path / "suite.yaml", tasks, "regression")
    path = tmp_path / "runs" / "whole" / "regression" / name
    path.parent.mkdir(parents=True)
    path.write_text("name: mine\n")
    message = refused(str(file), "--seeds", "1")
    assert name in message or "student-1" in message
    assert path.read_text() == "name: mine\n"
    assert [one for one in (tmp_path / "runs").rglob("*") if one.is_file()] == [path]


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_suite_replaces_no_results_of_someone_else(tmp_path, tasks):
    file = suite_file(tmp_path / "suite.yaml", tasks, "regression")
    path = tmp_path / "runs" / "whole" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"accuracy": 1.0}))
    message = refused(str(file), "--seeds", "1")
    assert message.startswith(f"{path}: not replaced, because")
    assert json.loads(path.read_text()) == {"accuracy": 1.0}
