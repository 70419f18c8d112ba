"""A small world for hostile input: each try gets a copy, runs one command in it and is looked at.

Whatever a command is given, it ends with an exit code that means something, in words, and a command
that refuses its input (2) leaves nothing behind.
"""

import contextlib
import copy
import errno
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import yaml
from accelerate.state import AcceleratorState
from tiny_experiments import ENVIRONMENT, bert, documents, save, word_tokenizer
from tiny_tasks import make_tasks

from distilcli.cli import guard
from distilcli.cli.app import app
from distilcli.signals import STOP_SIGNALS

CODES = {0, 1, 2, 129, 130, 143}
SECONDS = 120  # of one try: far above what any takes, below what anyone waits for
TASKS = ("classification", "multi-label", "regression", "question-answering", "tagging")
# Short, and small on any machine, whatever else a try changes.
SHORT = {
    "precision": "fp32",
    "global_batch_size": 8,
    "tokens_per_micro_batch": 64,
    "max_steps": 1,
    "num_workers": 0,
}
MASKED_LM = {
    "name": "fuzz",
    "output_dir": "runs",
    "teacher": {"model": "teacher", "precision": "fp32"},
    "student": {"kind": "copied", "num_layers": 1},
    "data": {
        "sources": [{"files": ["corpus.txt"], "documents": "line"}],
        "store": "store",
        "max_length": 24,
        "min_length": 4,
        "held_out_fraction": 0.2,
    },
    "train": SHORT,
    "validation": {"every": 0, "num_sequences": 8},
}


@dataclass(frozen=True)
class Outcome:
    """What a command came to, and what it left behind."""

    code: int
    stdout: str
    stderr: str
    new: set[str]
    crossed: list[str]


class World:
    """A teacher, text, rows and a trained run, made once; tries work on copies.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        template = root / "template"
        template.mkdir()
        save(bert(hidden_size=8, num_hidden_layers=2, num_attention_heads=2), template / "teacher")
        shutil.copytree(template / "teacher", template / "other")
        lines = documents(40)
        (template / "corpus.txt").write_text("".join(f"{line}\n" for line in lines))
        rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (template / "corpus.jsonl").write_text(rows)
        make_tasks(template / "tasks")
        shutil.rmtree(template / "tasks" / "bert")
        word_tokenizer().save_pretrained(template / "teacher")
        write(template / "own.yaml", MASKED_LM)
        for kind in TASKS:
            write(template / f"{kind}.yaml", task_experiment(kind))
        self.template = template
        trained = root / "trained"
        shutil.copytree(template, trained)
        outcome = run(["train", "--config", "own.yaml"], trained)
        assert outcome.code == 0, outcome.stderr
        self.trained = trained

    @contextlib.contextmanager
    def copy(self, trained: bool = False) -> Iterator[Path]:
        """A folder of its own for one try."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            place = Path(folder) / "here"
            shutil.copytree(self.trained if trained else self.template, place)
            yield place


def write(path: Path, tree: Any) -> None:
    """A file of settings."""
    path.write_text(yaml.safe_dump(tree), encoding="utf-8", errors="surrogatepass")


def task_experiment(kind: str) -> dict[str, Any]:
    """Fine-tuning one layer of the teacher on one of the tiny tasks."""
    ending = dict(zip(TASKS, ("tsv", "jsonl", "csv", "json", "txt"), strict=True))[kind]
    task: dict[str, Any] = {"kind": kind, "max_length": 24}
    for split in ("train", "dev"):
        task[split] = {"files": [f"tasks/{kind}/{split}.{ending}"]}
    if kind == "classification":
        task |= {"text": "first", "text_pair": "second"}
    if kind == "question-answering":
        task |= {"stride": 4, "max_question_length": 8}
    student = {"kind": "copied", "source": "teacher", "num_layers": 1}
    own = {"name": kind, "output_dir": "runs", "task": task, "teacher": None, "student": student}
    return copy.deepcopy(own | {"train": SHORT | {"global_batch_size": 4}})


def run(words: Sequence[str], folder: Path) -> Outcome:
    """One command line, in this process, in that folder."""
    before = paths(folder)
    stdout, stderr = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    here = Path.cwd()
    os.chdir(folder)
    try:
        with (
            mock.patch("sys.stdout", stdout),
            mock.patch("sys.stderr", stderr),
            mock.patch("sys.argv", ["distilcli", *words]),
            mock.patch.dict(os.environ, ENVIRONMENT),
            mock.patch("tempfile.tempdir", str(folder.parent)),
            mock.patch("os.cpu_count", return_value=1),  # no pools of processes
            FENCE.around(folder.parent) as crossed,
            at_most(SECONDS),
        ):
            code = guard.run(app, list(words))
    finally:
        os.chdir(here)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        AcceleratorState._reset_state(reset_partial_state=True)
    new = paths(folder) - before
    return Outcome(code, stdout.getvalue(), stderr.getvalue(), new, crossed)


class Fence:
    """Keeps a try in its folder: a mistake in this package must not remove what others own.

    An audit hook sees every call that removes or renames something, and cannot be taken back: it
    is there once, and does something only inside `around`.
    """

    _PLACES: ClassVar[dict[str, int]] = {
        "shutil.rmtree": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.mkdir": 1,
    }  # fmt: skip

    def __init__(self) -> None:
        self.root: Path | None = None
        self.crossed: list[str] = []
        sys.addaudithook(self._look)

    @contextlib.contextmanager
    def around(self, root: Path) -> Iterator[list[str]]:
        """What tried to leave `root` in the block."""
        self.root, self.crossed = root.resolve(), []
        try:
            yield self.crossed
        finally:
            self.root = None

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None or event not in self._PLACES:
            return
        for name in arguments[: self._PLACES[event]]:
            inside_an_open_folder = isinstance(arguments[-1], int) and arguments[-1] >= 0
            if isinstance(name, int) or (inside_an_open_folder and event != "os.mkdir"):
                continue  # of a tree whose top was looked at
            path = Path(os.path.realpath(os.fsdecode(name)))
            if path.is_relative_to(self.root) or ".cache" in path.parts:
                continue
            if event != "os.mkdir":
                self.crossed.append(f"{event} {path}")
            raise PermissionError(errno.EACCES, "outside of the try", str(path))


FENCE = Fence()


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Something that does not end becomes an error that says where it was."""

    def stop(*_: object) -> None:
        raise TimeoutError("does not end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def paths(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check(words: Sequence[str], outcome: Outcome) -> None:
    """Refuse an outcome that no command line may have."""
    said = f"distilcli {' '.join(words)!r} -> {outcome.code}\n{outcome.stderr[-3000:]}"
    assert not outcome.crossed, f"{outcome.crossed} by {said}"
    assert outcome.code in CODES, said
    assert "Traceback" not in outcome.stdout + outcome.stderr, said
    assert "error: unexpected " not in outcome.stderr, said
    assert "does not end" not in outcome.stderr, said
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (outcome.code != 0), said
    if outcome.code == 2:
        assert not outcome.new, f"{sorted(outcome.new)} left behind by {said}"
    if "--json" in words and not {"--help", "-h"} & set(words) and outcome.stdout:
        record = json.loads(outcome.stdout)
        assert ("error" in record) == (outcome.code != 0), said
