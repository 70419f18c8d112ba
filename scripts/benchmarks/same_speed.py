"""Whether a change makes training slower: the steps of two checkouts, in turns.

    python scripts/benchmarks/same_speed.py BEFORE AFTER [--sizes base,small] [--rounds 9] [--json]

BEFORE and AFTER are folders of this repository, such as two worktrees. `distilcli train` runs in
both at once, with the same models, text and default losses; one of the two processes is always
stopped (SIGSTOP) while the other takes steps, and each goes first in every second round. Both times
are told, but on a machine that others use only CPU time means something. A ratio above 1 is a
faster AFTER. Memory is the peak of each process. Some 20 minutes on one quiet core; Linux only.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workload import SHAPES, machine, write_teacher, write_text

NUM_LINES = 2000  # of text: more sequences than the steps read
MAX_LENGTH = 128
# Sequences and tokens of a step: enough for several chunks of logits, and for a short round.
SEQUENCES, MICRO_BATCH = 16, 1024
PATIENCE_SECONDS = 1800.0
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Times:
    """Of one step.

    Attributes:
        cpu_seconds: that the process was running.
        wall_seconds: that passed.
    """

    cpu_seconds: float
    wall_seconds: float


class Run:
    """`distilcli train` of one checkout, in a process of its own that is stopped most of the time.

    Args:
        checkout: folder of the repository.
        config: experiment file.
        folder: where store and run are written.
        threads: of the process.
    """

    def __init__(self, checkout: Path, config: Path, folder: Path, threads: int) -> None:
        self.metrics = folder / "run" / "metrics.jsonl"
        self.log = folder / "log.txt"
        environment = os.environ | {
            "PYTHONPATH": str(checkout),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        }
        own = [f"output_dir={folder}", "name=run", f"data.store={folder}/store"]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "distilcli", "train", "--config", str(config), *own],
                cwd=checkout,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def warm_up(self) -> None:
        """Take the first steps, which set things up, then stop."""
        self._until(2)
        self.process.send_signal(signal.SIGSTOP)

    def steps(self, count: int) -> Times:
        """Go on for so many steps, then stop; the mean of each step."""
        self.process.send_signal(signal.SIGCONT)
        begun = self._until(self._num_steps() + 1)  # the step in which it was stopped
        cpu, wall = self._cpu_seconds(), time.perf_counter()
        self._until(begun + count)
        times = Times((self._cpu_seconds() - cpu) / count, (time.perf_counter() - wall) / count)
        self.process.send_signal(signal.SIGSTOP)
        return times

    def peak_gib(self) -> float:
        """The most memory that the process has had resident."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
        raise RuntimeError("this system does not say how much memory a process has had")

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _num_steps(self) -> int:
        return self.metrics.read_bytes().count(b"\n") if self.metrics.exists() else 0

    def _until(self, number: int) -> int:
        """Wait until so many steps are done; how many are."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (done := self._num_steps()) < number:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no more steps come: {self.log.read_text()[-2000:]}")
            time.sleep(POLL_SECONDS)
        return done

    def _cpu_seconds(self) -> float:
        """Of all threads, in nanoseconds a thread as the scheduler counts them."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def running(checkout: Path, config: Path, folder: Path, threads: int) -> Iterator[Run]:
    """A run that has taken its first steps and is stopped; it is ended afterwards."""
    folder.mkdir()
    run = Run(checkout, config, folder, threads)
    try:
        run.warm_up()
        yield run
    finally:
        run.end()


def write_experiment(folder: Path, teacher: str, text: str) -> Path:
    """What both checkouts train; of keys only those that both have."""
    tree = {
        "name": "run",
        "teacher": {"model": teacher},
        "data": {
            "sources": [{"files": text, "format": "text", "documents": "line"}],
            "store": "store",
            "max_length": MAX_LENGTH,
            "held_out_fraction": 0.0,
        },
        "train": {
            "global_batch_size": SEQUENCES,
            "tokens_per_micro_batch": MICRO_BATCH,
            "max_steps": 100_000,
            "log_every": 1,
            "save_every": 1_000_000,
            "num_workers": 0,
        },
    }
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def compare(
    checkouts: Sequence[Path], size: str, rounds: int, steps: int, threads: int
) -> dict[str, Any]:
    """Time the steps of both checkouts on models of one size."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        config = write_experiment(
            folder,
            write_teacher(folder, size, MAX_LENGTH),
            write_text(folder, None, NUM_LINES),
        )
        runs = [
            stack.enter_context(running(checkout.resolve(), config, folder / label, threads))
            for checkout, label in zip(checkouts, ("before", "after"), strict=True)
        ]
        times: list[list[Times]] = [[], []]
        for number in range(rounds):
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                times[place].append(runs[place].steps(steps))
            cpu = [of_one[-1].cpu_seconds for of_one in times]
            print(
                f"{size}, round {number + 1}: {cpu[0]:.3f} s before, {cpu[1]:.3f} s after",
                file=sys.stderr,
            )
        return figures(times) | {"peak_gib": [round(run.peak_gib(), 3) for run in runs]}


def figures(times: Sequence[Sequence[Times]]) -> dict[str, Any]:
    """Medians of both checkouts, and the ratio of the medians: above 1, AFTER is faster."""
    found: dict[str, Any] = {}
    for key in ("cpu_seconds", "wall_seconds"):
        medians = [statistics.median(getattr(one, key) for one in of_one) for of_one in times]
        found[key] = [round(median, 4) for median in medians]
        found[f"{key}_ratio"] = round(medians[0] / medians[1], 4)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare on models of each size and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="folder of the repository")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--sizes", default="base,small", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1, help="of each checkout in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    report = {
        size: compare(
            [options.before, options.after], size, options.rounds, options.steps, options.threads
        )
        for size in options.sizes.split(",")
    }
    if options.json:
        print(json.dumps({"machine": machine("cpu"), "sizes": report}))
        return
    print("| size | CPU seconds a step, before and after | ratio | wall | peak GiB |")
    print("|---|---|---|---|---|")
    for size, found in report.items():
        cpu, peak = found["cpu_seconds"], found["peak_gib"]
        print(
            f"| {size} | {cpu[0]} and {cpu[1]} | {found['cpu_seconds_ratio']} "
            f"| {found['wall_seconds_ratio']} | {peak[0]} and {peak[1]} |"
        )


if __name__ == "__main__":
    main()
