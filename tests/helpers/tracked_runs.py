"""What trackers of others have of a run, read back from what they wrote into a folder."""

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import tiny_experiments
from accelerate import PartialState

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.training.run_folder import RunFolder
from distilcli.training.tracking import Trackers

_BLOCK = 32768  # of the files that Weights & Biases writes, which are logs of LevelDB


@dataclass
class Tracked:
    """What a tracker has.

    Attributes:
        runs: how the tracker calls each run that it has.
        metrics: of each name and step, every value that was reported.
        settings: as texts.
        table: the lines that the run ended with.
        student: what is said of the place of the student.
        files: names of the files of the student that are referred to or kept.
    """

    runs: set[str] = field(default_factory=set)
    metrics: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    table: list[tuple[str, float]] = field(default_factory=list)
    student: str = ""
    files: set[str] = field(default_factory=set)

    def add(self, key: str, step: int, value: float) -> None:
        self.metrics.setdefault((key, step), []).append(value)


def environment(folder: Path) -> dict[str, str]:
    """Variables with which every tracker stays in this folder, and asks nobody."""
    return {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_SILENT": "true",
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_DATA_DIR": str(folder / "data"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
    }


def of_tensorboard(folder: Path) -> Tracked:
    accumulators = import_module("tensorboard.backend.event_processing.event_accumulator")
    tracked = Tracked()
    for events in sorted(folder.rglob("events.out.tfevents.*")):
        found = accumulators.EventAccumulator(str(events)).Reload()
        for key in found.Tags()["scalars"]:
            for event in found.Scalars(key):
                tracked.add(key, event.step, event.value)
        texts = {
            tag.split("/")[0]: found.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
            for tag in found.Tags()["tensors"]
            if tag.endswith("text_summary")
        }
        if "final" in texts:
            rows = [line.strip("| ").split(" | ") for line in texts["final"].splitlines()[2:]]
            tracked.table = [(name, float(value)) for name, value in rows]
        tracked.student = texts.get("student", tracked.student)
    for file in folder.rglob("hparams.yml"):
        tracked.runs.add(file.parent.parent.name)
        loaded = import_module("yaml").safe_load(file.read_text())
        tracked.settings |= {key: str(value) for key, value in loaded.items()}
    return tracked


def of_wandb(folder: Path) -> Tracked:
    """Of runs that were not uploaded, each a file; a run that went on has several of one id."""
    import_module("wandb").teardown()  # its own process has written everything
    tracked = Tracked()
    records = import_module("wandb.proto.wandb_internal_pb2")
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in _entries(file.read_bytes()):
            record = records.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                tracked.runs.add(record.run.run_id)
            for item in (*record.run.config.update, *record.config.update):
                tracked.settings[item.key] = str(json.loads(item.value_json))
            values = {
                item.key or " ".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            step = record.history.step.num
            for key, value in values.items():
                if isinstance(value, float | int) and not key.startswith(("_", "final ")):
                    tracked.add(key, step, value)
            if "final path" in values:
                table = json.loads((file.parent / "files" / values["final path"]).read_text())
                tracked.table = [tuple(row) for row in table["data"]]
            artefact = record.artifact
            if artefact.type == "model":
                for entry in artefact.manifest.contents:
                    tracked.files.add(entry.path)
                    tracked.student = entry.ref.rpartition("/")[0] or tracked.student
    return tracked


def _entries(data: bytes) -> Iterator[bytes]:
    """The entries of a file of Weights & Biases: a header of 7 bytes, then blocks of pieces."""
    position, whole = 7, b""
    while position + 7 <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            position += left
            continue
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # all of an entry, or its last piece
            yield whole
            whole = b""


def of_mlflow(folder: Path) -> Tracked:
    mlflow = import_module("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    tracked = Tracked()
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            tracked.runs.add(run.info.run_id)
            tracked.settings |= run.data.params
            tracked.student = run.data.tags.get("student", tracked.student)
            for key in run.data.metrics:
                for metric in client.get_metric_history(run.info.run_id, key):
                    tracked.add(key, metric.step, metric.value)
            kept = Path(run.info.artifact_uri.removeprefix("file://"))
            if (kept / "final.json").exists():
                table = json.loads((kept / "final.json").read_text())
                tracked.table = [tuple(row) for row in table["data"]]
            tracked.files |= {path.name for path in (kept / "student").glob("*")}
    return tracked


def of_trackio(folder: Path) -> Tracked:
    storage = import_module("trackio.sqlite_storage").SQLiteStorage
    tracked = Tracked()
    for project in storage.get_projects():
        for name in storage.get_runs(project):
            tracked.runs.add(name)
            config = storage.get_run_config(project, name) or {}
            tracked.settings |= {key: str(value) for key, value in config.items()}
            for line in storage.get_logs(project, name):
                values = {key: value for key, value in line.items() if key != "step"}
                for key, value in values.items():
                    if isinstance(value, float | int):
                        tracked.add(key, line["step"], value)
                if "final" in values:
                    rows: list[Any] = values["final"]["_value"]
                    tracked.table = [tuple(row.values()) for row in rows]
        for artefact in storage.list_artifacts(project):
            newest = storage.get_artifact_manifest(project, artefact["name"], "latest")
            for entry in newest["manifest"]:
                tracked.files.add(entry["path"])
                tracked.student = entry.get("ref", "").rpartition("/")[0] or tracked.student
    return tracked


READERS: dict[str, Callable[[Path], Tracked]] = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "mlflow": of_mlflow,
    "trackio": of_trackio,
}


# A run, as a process of its own: some trackers keep where they write from their import on

SECRET = "hf_what-nobody-is-told"


def experiment(folder: Path, *trackers: str, **train: object) -> MaskedLMExperiment:
    data = {"sources": [{"files": "a.txt", "documents": "line"}], "store": "store"}
    tree: dict[str, Any] = {"name": "tiny", "teacher": {"model": "teacher"}, "data": data}
    tree["train"] = {"trackers": trackers} | train
    return MaskedLMExperiment.model_validate(tree | {"output_dir": str(folder / "runs")})


def records(*steps: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss/total": 1 / step, "optim/lr": 2.0**-step} for step in steps]


def report(
    folder: Path, tracker: str, *, resumed: bool, steps: Sequence[int], **train: object
) -> Trackers:
    """Report some steps of a run as training does; what the tracker could not do is an error."""
    warnings: list[str] = []
    trackers = Trackers(experiment(folder, tracker, **train), True, warnings.append)
    trackers.start("tiny", resumed=resumed)
    trackers.log(records(*steps))
    assert not warnings, warnings
    return trackers


def run_that_goes_on(folder: str, tracker: str, upload: str) -> None:
    """Three steps, a stop, and two more from the second on; what the tracker has, into a file."""
    root = Path(folder)
    os.environ |= environment(root) | {"HF_TOKEN": SECRET}
    os.chdir(root)
    PartialState(cpu=True)
    run = RunFolder(root / "runs" / "tiny")
    run.root.mkdir(parents=True)
    report(root, tracker, resumed=False, steps=[1, 2, 3]).close()
    run.append_metrics(records(1, 2, 3))
    settings = {"upload_student": upload == "True", "save_every": 2}
    trackers = report(root, tracker, resumed=True, steps=[3, 4], **settings)
    run.student.mkdir()
    (run.student / "model.safetensors").write_bytes(b"weights")
    trackers.end({"held_out/loss": 0.25, "steps": 4}, 4, run.student)
    trackers.close()
    (root / "found.txt").write_text(repr(READERS[tracker](root)))


def command(folder: str, *arguments: str) -> None:
    """A command whose trackers stay in a folder."""
    os.environ |= environment(Path(folder))
    os.chdir(folder)
    tiny_experiments._main(*arguments)
