"""Trackers of others: what they have of a run, when it goes on, and when one of them fails."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import tracked_runs
from accelerate import PartialState
from tiny_experiments import metrics, start_function
from tracked_runs import READERS, SECRET, Tracked, experiment, records

from distilcli.files.json_text import parse_json
from distilcli.training.tracker_kinds import TRACKERS, TensorBoardRun
from distilcli.training.tracking import Trackers, flat_settings

INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason="not installed"))
    for name in READERS
]


def tracked(folder: Path, tracker: str, *, upload: bool) -> Tracked:
    run = start_function(tracked_runs.run_that_goes_on, [str(folder), tracker, str(upload)])
    finished = run.wait()
    assert finished.code == 0, finished.stderr
    assert finished.stdout == ""
    found = (folder / "found.txt").read_text()
    return eval(found, {"Tracked": Tracked})  # what `repr` wrote


@pytest.mark.slow
@pytest.mark.parametrize("tracker", INSTALLED)
def test_what_a_tracker_has_of_a_run_that_went_on(tmp_path, tracker):
    """One run: each step once, the settings, the last figures, and where the student lies."""
    found = tracked(tmp_path, tracker, upload=False)
    assert len(found.runs) == 1
    assert found.metrics == {
        (key, record["step"]): [pytest.approx(record[key], rel=1e-6)]
        for record in records(1, 2, 3, 4)
        for key in ("loss/total", "optim/lr")
    }
    settings = {k: str(v) for k, v in flat_settings(experiment(tmp_path, tracker)).items()}
    if not TRACKERS[tracker].keeps_settings:  # those that it went on with
        settings["train.save_every"] = "2"
    assert {key: found.settings.get(key) for key in settings} == settings
    assert found.table == [("held_out/loss", 0.25), ("steps", 4)]
    student = tmp_path / "runs" / "tiny" / "student"
    assert student.name in found.student
    if tracker in ("wandb", "trackio"):
        assert found.files == {"model.safetensors"}
        assert found.student == student.as_uri()
    else:
        assert found.files == set()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("tracker", [t for t in INSTALLED if t.values[0] != "tensorboard"])
def test_a_copy_of_the_student(tmp_path, tracker):
    found = tracked(tmp_path, tracker, upload=True)
    assert found.files == {"model.safetensors"}
    student = tmp_path / "runs" / "tiny" / "student" / "model.safetensors"
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path != student]
    assert any(path.read_bytes() == b"weights" for path in kept)


@pytest.mark.slow
def test_one_of_two_processes_reports(tiny_world, tmp_path):
    """Trackers have one run, with the values of `metrics.jsonl`; they end before the command."""
    names = [name for name in ("tensorboard", "wandb") if find_spec(name) is not None]
    train = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}", "--json"]
    train += ["train.max_steps=4", f"train.trackers=[{','.join(names)}]"]
    finished = start_function(tracked_runs.command, [str(tmp_path), *train], 2).wait()
    assert finished.code == 0, finished.stderr
    result = finished.json
    for name in names:
        found = READERS[name](tmp_path)
        assert len(found.runs) == 1
        for record in metrics(tmp_path / "tiny"):
            for key in record.keys() - {"step"}:
                values = found.metrics[key, record["step"]]
                assert values == [pytest.approx(record[key], rel=1e-6)], (name, key)
        table = dict(found.table)
        assert table["student step"] == result["student_step"]
        assert table["held_out/loss"] == pytest.approx(result["held_out"]["held_out/loss"])
        student = Path(found.student.removeprefix("file://").strip("`"))
        assert student == tmp_path / "tiny" / "student"


class Failing(TensorBoardRun):
    """A tracker whose disk is full from the second step on."""

    told: list[int] = []  # noqa: RUF012

    def log(self, values, step):
        self.told.append(step)
        if step > 1:
            raise OSError(28, "No space left on device")


def test_a_tracker_that_fails_ends_nothing(tmp_path, monkeypatch, fresh_accelerator):
    """It is named once and told no more; the others have everything."""
    PartialState()
    monkeypatch.setitem(TRACKERS, "wandb", Failing)
    monkeypatch.setattr(Failing, "told", [])
    warnings: list[str] = []
    both = experiment(tmp_path, "wandb", "tensorboard")
    trackers = Trackers(both, True, warnings.append)
    trackers.start("tiny", resumed=False)
    trackers.log(records(1, 2, 3))
    trackers.log(records(4))
    trackers.close()
    assert warnings == [
        "train.trackers: wandb failed, and nothing more of this run is reported there "
        "(OSError: [Errno 28] No space left on device)"
    ]
    assert Failing.told == [1, 2]
    found = READERS["tensorboard"](tmp_path)
    assert {step for _, step in found.metrics} == {1, 2, 3, 4}
    known = parse_json((tmp_path / "runs" / "tiny" / "trackers.json").read_bytes())
    assert known == {"wandb": "tiny", "tensorboard": "tiny"}
