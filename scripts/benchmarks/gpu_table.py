"""How fast a distillation step of BERT-base is on a GPU, beside padded PyTorch: one table.

    python gpu_table.py                  # some 4 minutes
    python gpu_table.py --seconds 600    # rows that do not fit in are listed as such
    python gpu_table.py --only 512       # rows whose name holds this
    python gpu_table.py --profile        # the costliest kernels of the first uncompiled row
    python gpu_table.py --device cpu --size small --tokens 2000 --seconds 60  # a rehearsal

Each row is a process of its own with a time limit of its own; one that fails takes no other with
it. A row prints its figures when it ends, and the table comes last. Sequences are cut from one long
document, so nearly all of them are full, and padding costs the padded ones nothing.

Useful GFLOP are counted as `reckoning.py` does. They are divided by 989 TFLOP/s, what an H100 or
H200 can do in dense bf16, and by what a large product of this device reaches in the same process.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import work
from reckoning import H100_TFLOPS
from workload import ROOT, SHAPES, Task, machine, write_teacher, write_whole_text

_WARM_UP = 3
_ROUNDS = 3
_ENDED_BY_TIME = "no answer in time"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        contestant: see `bench.work`.
        max_length: tokens of a sequence.
        micro_batch: thousands (1,024) of tokens.
        dropout: of the student.
        compile: whether layers (and distilcli's losses) are compiled.
    """

    contestant: str
    max_length: int
    micro_batch: int
    dropout: float
    compile: bool

    @property
    def name(self) -> str:
        """What it is, in words."""
        words = "padded bf16" if self.contestant.startswith("padded") else "distilcli"
        if words == "distilcli":
            words += f", {self.contestant} positions"
        words += ", compiled" if self.compile else ""
        return f"{words}, dropout {self.dropout}, {self.max_length} tokens, {self.micro_batch}k"


# The most important ones first: time may end before the rows do.
ROWS = (
    Row("all", 128, 32, 0.1, True),
    Row("masked", 128, 32, 0.1, True),
    Row("padded_bf16", 128, 16, 0.1, False),
    Row("padded_compiled", 128, 16, 0.1, True),
    Row("all", 512, 32, 0.1, True),
    Row("masked", 512, 32, 0.1, True),
    Row("all", 128, 32, 0.1, False),
    Row("masked", 128, 32, 0.1, False),
    Row("padded_bf16", 512, 16, 0.1, False),
    Row("padded_compiled", 512, 16, 0.1, True),
    Row("all", 512, 32, 0.0, True),
    Row("masked", 512, 32, 0.0, True),
    Row("all", 128, 64, 0.1, True),
    Row("all", 512, 64, 0.1, True),
    Row("all", 128, 16, 0.1, True),
    Row("all", 512, 16, 0.1, True),
    Row("masked", 128, 64, 0.1, True),
    Row("all", 128, 32, 0.0, True),
    Row("all", 512, 32, 0.1, False),
)


def wait_and_work(row: Row, task: Task) -> None:
    """Import everything, wait for one line, then answer each line with the figures of a step."""
    import contestants  # noqa: F401  # what takes long to import

    sys.stdin.readline()
    work(row.contestant, task)


class Process:
    """A row's process, which has imported what it needs by the time that it may begin.

    Args:
        row: what it measures.
        task: the same, as `bench.py` says it.
        log: file for what it says on stderr.
    """

    def __init__(self, row: Row, task: Task, log: Path) -> None:
        self.row = row
        self._task = task
        self._log = log
        environment = os.environ | {"OMP_NUM_THREADS": str(task.threads), "HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        with log.open("w", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--worker", json.dumps([asdict(row), asdict(task)])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
                start_new_session=True,  # so that its workers can be ended with it
            )

    def measure(self, seconds: float) -> dict[str, Any]:
        """Its figures, or what went wrong, under "error"."""
        start = time.perf_counter()
        steps = self._task.warm_up + self._task.rounds
        error = None
        try:
            said, _ = self._process.communicate("\n" * (1 + steps), timeout=seconds)
        except subprocess.TimeoutExpired:
            error = _ENDED_BY_TIME
            said = self.stop()
        answers = [json.loads(line) for line in said.splitlines() if line.endswith("}")]
        timed = answers[self._task.warm_up :]
        found: dict[str, Any] = {"row": self.row.name, "wall_seconds": time.perf_counter() - start}
        if timed:
            found |= _figures(timed)
        if len(timed) < self._task.rounds:
            found["error"] = error or self._last_words()
        return found

    def stop(self) -> str:
        """End it and its workers; what it has said."""
        os.killpg(self._process.pid, signal.SIGKILL)
        said: str = self._process.communicate()[0]
        return said

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        print("\n".join(lines[-15:]), file=sys.stderr)
        return f"ended with {self._process.returncode}: {lines[-1][:200] if lines else ''}"


def _figures(timed: list[dict[str, float]]) -> dict[str, float]:
    """Medians over the timed steps."""
    gflops = statistics.median(step["gflop"] / step["seconds"] for step in timed)
    peak = statistics.median(step["peak_gflops"] for step in timed)
    return {
        "tokens_per_second": statistics.median(step["tokens"] / step["seconds"] for step in timed),
        "tokens": statistics.median(step["tokens"] for step in timed),
        "step_seconds": statistics.median(step["seconds"] for step in timed),
        "slowest_step_seconds": max(step["seconds"] for step in timed),
        "memory_gib": max(step["memory_gib"] for step in timed),
        "tflops": gflops / 1e3,
        "of_peak": gflops / 1e3 / H100_TFLOPS,
        "measured_tflops": peak / 1e3,
        "of_measured": gflops / peak,
        "loss": timed[-1]["loss"],
    }


def show(found: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
    titles = ["", "tokens/s", "peak memory, GiB", "useful TFLOP/s", f"of {H100_TFLOPS:.0f}"]
    titles += ["of the measured peak", "slowest step / median"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in found:
        cells = [row["row"]]
        if "tokens_per_second" in row:
            cells += [f"{row['tokens_per_second']:,.0f}", f"{row['memory_gib']:.1f}"]
            cells += [f"{row['tflops']:.1f}", f"{row['of_peak']:.1%}"]
            cells += [f"{row['of_measured']:.1%} of {row['measured_tflops']:,.1f}"]
            cells += [f"{row['slowest_step_seconds'] / row['step_seconds']:.2f}"]
        if "error" in row:
            cells.append(row["error"].replace("|", "/"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def task_of(row: Row, options: argparse.Namespace, folder: Path, teacher: str, text: str) -> Task:
    """A row as `bench.py` says it."""
    # A folder of its own: sequences of other lengths are another store.
    own = folder / str(row.max_length)
    own.mkdir(exist_ok=True)
    micro_batch = row.micro_batch * 1024
    tokens = options.tokens or 2 * 64 * 1024
    return Task(
        size=options.size,
        teacher=teacher,
        text=text,
        folder=str(own),
        device=options.device,
        threads=1,
        sequences=tokens // row.max_length,
        max_length=row.max_length,
        micro_batch=min(micro_batch, tokens),
        dropout=row.dropout,
        rounds=_ROUNDS,
        compile=row.compile,
        warm_up=_WARM_UP,
        documents="file",
    )


def measure_all(
    rows: Sequence[Row], options: argparse.Namespace, folder: Path, end: float
) -> list[dict[str, Any]]:
    """The figures of all rows, of which each is ready to begin when the one before ends."""
    teacher, text = write_teacher(folder, options.size, 512), write_whole_text(folder)
    waiting = [
        (row, task_of(row, options, folder, teacher, text), folder / f"row-{place}.log")
        for place, row in enumerate(rows)
    ]
    found: list[dict[str, Any]] = []
    following = Process(*waiting[0]) if waiting else None
    for place, row in enumerate(rows):
        process, following = following, None
        left = end - time.monotonic()
        if process is None or left < options.least:
            found.append({"row": row.name, "error": "not begun: the time is over"})
            if process is not None:
                process.stop()
            continue
        if place + 1 < len(waiting) and left > options.least:
            following = Process(*waiting[place + 1])
        found.append(process.measure(min(options.row_seconds, left)))
        print(show(found[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return found


def take_profile(row: Row, options: argparse.Namespace, folder: Path) -> int:
    """`distilcli train --profile` of two small steps of a row; its exit code."""
    options.tokens = options.tokens or row.micro_batch * 1024
    teacher, text = write_teacher(folder, options.size, 512), write_whole_text(folder)
    task = task_of(row, options, folder, teacher, text)
    experiment = task.experiment(row.contestant)
    experiment["train"]["max_steps"] = 10
    file = folder / "profile.yaml"
    file.write_text(json.dumps(experiment), encoding="utf-8")  # which is YAML
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    command = ["train", "--profile", "2", "--config", str(file)]
    return subprocess.run([sys.executable, "-m", "distilcli", *command], env=environment).returncode


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--size", choices=sorted(SHAPES), default="base")
    parser.add_argument("--tokens", type=int, help="of a step, about; default: 131,072")
    parser.add_argument("--seconds", type=float, default=225.0, help="for all rows")
    parser.add_argument("--row-seconds", type=float, default=75.0, help="for one row")
    parser.add_argument("--least", type=float, default=12.0, help="no row begins with less left")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--profile", action="store_true", help="of one of these rows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows and print the table."""
    options = _parse(arguments)
    end = time.monotonic() + options.seconds
    if options.worker:
        row, task = json.loads(options.worker)
        wait_and_work(Row(**row), Task(**task))
        return
    rows = [row for row in ROWS if options.only in row.name]
    with tempfile.TemporaryDirectory() as folder:
        if options.profile:
            # Compiling takes longer than everything else, unless such a row is what is asked for.
            row = next(
                (row for row in rows if row.contestant == "all" and not row.compile), rows[0]
            )
            raise SystemExit(take_profile(row, options, Path(folder)))
        found = measure_all(rows, options, Path(folder), end)
    hardware = machine(options.device)
    if options.json:
        print(json.dumps({"machine": hardware, "rows": found}))
        return
    print(", ".join(f"{key} {value}" for key, value in hardware.items()))
    print(f"\n{show(found)}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
