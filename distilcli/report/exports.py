"""What `distilcli export` wrote down of a student's exports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilcli.errors import ConfigError
from distilcli.files.json_text import parse_json
from distilcli.files.marks import read_mark
from distilcli.files.shown_paths import short_name, shown_tree

RECORD = "export.json"
_TITLES = {
    "onnx": "ONNX in fp32",
    "int8": "ONNX in int8",
    "fp16": "weights in fp16",
    "bf16": "weights in bf16",
}
_MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """Forward passes on the CPU.

    Attributes:
        single_ms: one input, milliseconds.
        batched_ms: 32 inputs, milliseconds.
        mib: of the weights, or of the file.
    """

    single_ms: float
    batched_ms: float
    mib: float


@dataclass(frozen=True)
class ExportedFile:
    """One format of an export.

    Attributes:
        kind: onnx, int8, fp16 or bf16.
        path: of the file, in the folder.
        mib: of the file.
        sha256: of the file.
        score: of one input at a time or of batches of 32, whichever is lower.
        difference: the largest between an output of the student and of the file.
        left_out: how many products are not in int8.
    """

    kind: str
    path: str
    mib: float
    sha256: str
    score: float
    difference: float
    left_out: int

    @property
    def title(self) -> str:
        """What it is, for people."""
        return _TITLES.get(self.kind, self.kind)

    @property
    def short(self) -> str:
        """The same in a word."""
        return "ONNX" if self.kind == "onnx" else self.kind


@dataclass(frozen=True)
class Export:
    """A folder that a student was exported to.

    Attributes:
        root: the folder.
        name: what it is called on a page.
        experiment: name of the run's experiment; None: the student is of no run.
        student: that was exported, as others may see its path.
        weights: digest of the student's weights; None: not on record.
        measured_on: in words.
        score: the one that exports are judged by; higher is better.
        student_score: of the student in torch.
        files: one of each format.
        times: of teacher and student in torch, and of formats; empty: not measured.
        environment: machine and versions.
    """

    root: Path
    name: str
    experiment: str | None
    student: str
    weights: str | None
    measured_on: str
    score: str
    student_score: float
    files: Sequence[ExportedFile]
    times: dict[str, Timing]
    environment: dict[str, Any]

    @property
    def reference(self) -> str | None:
        """What the others are compared with in speed: the teacher, else the student in torch."""
        return next((one for one in ("teacher", "student") if one in self.times), None)

    @property
    def best(self) -> ExportedFile:
        """The file that one would use: in int8 where there is one, else the first."""
        return next((one for one in self.files if one.kind == "int8"), self.files[0])

    def faster(self, kind: str) -> float | None:
        """How many times as fast as the reference one input is computed; None: not measured."""
        if self.reference is None or kind not in self.times:
            return None
        return self.times[self.reference].single_ms / self.times[kind].single_ms


def is_export(folder: Path) -> bool:
    """Whether a folder is that of an export, by its mark or by what lies in it."""
    mark = read_mark(folder)
    return (folder / RECORD).is_file() and (mark is None or mark["kind"] == "export")


def read_export(folder: Path) -> Export:
    """Read the folder of an export.

    Raises:
        ConfigError: export.json cannot be read, or is not as `distilcli export` writes it.
    """
    path = folder / RECORD
    try:
        return _export(folder, shown_tree(parse_json(path.read_bytes())))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: is not as distilcli export writes it ({error!r})", "Export it again."
        ) from error


def _export(folder: Path, record: dict[str, Any]) -> Export:
    score = str(record["score"])
    files = [_file(kind, one, score) for kind, one in record["formats"].items()]
    if not files:
        raise ValueError("it has no formats")
    identity = record.get("identity") or {}
    times = (record.get("speed") or {}).items()
    return Export(
        root=folder,
        name=short_name(str(folder.resolve())),
        experiment=record.get("experiment"),
        student=str(record["model"]),
        weights=identity.get("model weights"),
        measured_on=str(record["measured_on"]),
        score=score,
        student_score=float(record["scores"][score]),
        files=files,
        times={name: Timing(**{key: float(x) for key, x in one.items()}) for name, one in times},
        environment=dict(record.get("environment") or {}),
    )


def _file(kind: str, record: dict[str, Any], score: str) -> ExportedFile:
    return ExportedFile(
        kind=kind,
        path=str(record["file"]),
        mib=record["bytes"] / _MIB,
        sha256=str(record["sha256"]),
        score=min(float(one[score]) for one in record["scores"].values()),
        difference=float(record["difference"]),
        left_out=len(record.get("left_out") or ()),
    )
