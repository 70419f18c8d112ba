"""Kills a distillation run at random instants and looks at what is left of it.

    bash scripts/development/torture.sh [--kills 50] [--seed 0] [--json]

Two processes under torchrun distil the built-in teacher; every so often all of them, or torchrun
alone, get SIGKILL, while the text is prepared, while processes start, while a step is taken, while
a checkpoint is written, while held-out text is measured. Each time the same command starts again,
as a cluster script would do. At the end stands a comparison with a run that nobody disturbed:
student, optimiser and every record must be the same to the last bit, no step may be missing or
stand there twice, and nothing may lie beside what a run should hold: at the end, and whenever a run
has taken a step since the last kill. Dropout is on. Exit code 1 when anything differs. Some 15
minutes for 50 kills on 2 cores.
"""

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import yaml

ROOT = Path(__file__).resolve().parents[2]
NAME = "torture"
SAVE_EVERY, VALIDATE_EVERY = 2, 5
# Of every kill a run gains some steps; there must be some left at the last one.
STEPS_PER_KILL = 3
# Seconds; a run that has not come to the instant of its kill by then hangs.
PATIENCE = 300.0
# How often torchrun alone is killed: its processes then stop by themselves, and the next start
# must wait for them.
LAUNCHER_ALONE = 0.2
CLOCKS = ("speed/tokens_per_second",)
# All that may lie in the folder of a run and its token store.
HELD = [
    r"torture\.yaml",
    r"log\.txt",
    r"store/(\.lock|settings\.json|manifest\.json)",
    r"store/(train|held_out)/shard-\d{5}\.arrow",
    r"store/shards/shard-\d{5}\.json",
    rf"runs/{NAME}/(\.lock|experiment\.yaml|environment\.json|identity\.json|metrics\.jsonl)",
    rf"runs/{NAME}/(initial-student|student)/[a-z_]+\.(json|jinja|txt|safetensors)",
    rf"runs/{NAME}/student/README\.md",  # its card
    rf"runs/{NAME}/checkpoints/step-\d{{8}}/(checkpoint\.json|(student|optimizer)\.safetensors)",
]
# Where things are written before they get their names; between kill and next start they may be.
WRITING = ".distilcli-writing"


@dataclass
class Run:
    """A run in a folder of its own, with a token store of its own."""

    folder: Path
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.config = self.folder / "torture.yaml"

    def configure(self, max_steps: int) -> None:
        """Write the experiment file."""
        experiment = {
            "name": NAME,
            "output_dir": str(self.folder / "runs"),
            "teacher": {"model": "builtin:teacher"},
            "student": {"num_layers": 2},
            "data": {
                "sources": [{"files": "builtin:text.jsonl.gz"}],
                "store": str(self.folder / "store"),
                "max_length": 32,
            },
            "train": {
                "global_batch_size": 8,
                "tokens_per_micro_batch": 128,
                "max_steps": max_steps,
                "log_every": 1,
                "save_every": SAVE_EVERY,
            },
            "validation": {"every": VALIDATE_EVERY, "num_sequences": 32},
        }
        self.config.write_text(yaml.safe_dump(experiment), encoding="utf-8")

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.folder / "runs" / NAME

    def start(self) -> subprocess.Popen[bytes]:
        """Start, or go on, as two processes."""
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = ["-m", "distilcli", "train", "--resume", "--config", str(self.config)]
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*launcher, "--nproc_per_node", "2", *command],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def finish(self) -> None:
        """Let it come to its end."""
        code = self.start().wait()
        if code != 0:
            log = (self.folder / "log.txt").read_text(encoding="utf-8")
            raise SystemExit(f"error: the run ended with {code}\n{log[-4000:]}")

    def records(self) -> list[dict[str, Any]]:
        """What it has logged, but for what depends on the clock."""
        lines = (self.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return [{k: v for k, v in record.items() if k not in CLOCKS} for record in records]

    def last_step(self) -> int:
        """How far its records go."""
        path = self.output / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def left_behind(self, since: int) -> list[str]:
        """What should not be there: files of no run, and what was being written before a time.

        Args:
            since: nanoseconds; what is being written from then on is rightly there.
        """
        found = []
        # os.walk passes over a folder that goes meanwhile; rglob would end there.
        inside = [
            Path(folder) / name
            for folder, folders, files in os.walk(self.folder)
            for name in (*folders, *files)
        ]
        for path in inside:
            name = str(path.relative_to(self.folder))
            with contextlib.suppress(FileNotFoundError):  # the run goes on meanwhile
                if WRITING in name:
                    is_old = name.endswith(WRITING) and path.stat().st_ctime_ns < since
                else:
                    is_old = path.is_file() and not any(re.fullmatch(one, name) for one in HELD)
                if is_old:
                    found.append(name)
        return found

    def tensors(self) -> dict[str, bytes]:
        """Every byte of the student and of the newest checkpoint."""
        newest = max((self.output / "checkpoints").glob("step-*"))
        files = [self.output / "student" / "model.safetensors", *newest.glob("*.safetensors")]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in files}


# When to kill


def instants(run: Run, draw: random.Random) -> dict[str, Callable[[], bool]]:
    """For each phase of a run that starts now: whether its kill is due."""
    started = time.monotonic()
    first = run.last_step()
    starting = draw.uniform(0.0, 8.0)
    steps = draw.randint(1, 2 * STEPS_PER_KILL)
    checkpoints = run.output / "checkpoints"

    def validates() -> bool:
        step = run.last_step()
        return step > first and (step + 1) % VALIDATE_EVERY == 0

    return {
        "preparing": lambda: (run.folder / "store").exists(),
        "starting": lambda: time.monotonic() - started > starting,
        "training": lambda: run.last_step() >= first + steps,
        "writing": lambda: any(checkpoints.glob(f".step-*{WRITING}/new")),
        "validating": validates,
    }


def kill(run: Run, phase: str, draw: random.Random) -> tuple[bool, list[str]]:
    """Start the run and kill it in a phase.

    Returns:
        False when it came to its end before; and what the kill before has left behind, as far as
        the run has taken a step since.
    """
    first, started = run.last_step(), time.time_ns()
    process = run.start()
    due = instants(run, draw)[phase]
    latest = time.monotonic() + PATIENCE
    while not due():
        if process.poll() is not None:
            if process.returncode == 0:
                return False, run.left_behind(time.time_ns())
            log = (run.folder / "log.txt").read_text(encoding="utf-8")
            raise SystemExit(f"error: the run ended with {process.returncode}\n{log[-4000:]}")
        if time.monotonic() > latest:
            kill_family(process, launcher_alone=False)
            raise SystemExit(f"error: after {PATIENCE:.0f} s the run is not yet {phase}")
        time.sleep(0.002)
    time.sleep(draw.uniform(0.0, 0.4))
    left = run.left_behind(started) if run.last_step() > first else []
    alive = process.poll() is None
    kill_family(process, launcher_alone=draw.random() < LAUNCHER_ALONE)
    return alive, left


def kill_family(process: subprocess.Popen[bytes], launcher_alone: bool) -> None:
    """SIGKILL to torchrun, and to the processes that it has started, each in its own session."""
    children = []
    if process.poll() is None and not launcher_alone:
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def torture(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """The comparison of a run that was killed so often with one that was not."""
    draw = random.Random(seed)
    undisturbed, killed = Run(folder / "undisturbed"), Run(folder / "killed")
    for run in (undisturbed, killed):
        # Twice what the kills take on average: a fast machine must not end before the last one.
        run.configure(max_steps=2 * STEPS_PER_KILL * kills + 5)
    undisturbed.finish()
    print("undisturbed: done", file=sys.stderr)
    phases: Counter[str] = Counter()
    left_behind: list[str] = []
    for number in range(kills):
        # Preparing happens only until the store is whole.
        early = ["preparing"] if number < max(1, kills // 10) else []
        phase = draw.choice(early or ["starting", "training", "writing", "validating"])
        was_killed, left = kill(killed, phase, draw)
        left_behind += left
        if not was_killed:
            break
        phases[phase] += 1
        print(f"kill {number + 1}: {phase}, step {killed.last_step()}", file=sys.stderr)
    killed.finish()
    for run in (undisturbed, killed):
        left_behind += run.left_behind(time.time_ns())
    steps = Counter(record["step"] for record in killed.records())
    wanted = [record["step"] for record in undisturbed.records()]
    return {
        "kills": phases.total(),
        "kills_by_phase": dict(phases),
        "steps": len(wanted),
        "bitwise_equal": killed.tensors() == undisturbed.tensors(),
        "equal_records": killed.records() == undisturbed.records(),
        "lost_steps": sum(step not in steps for step in wanted),
        "doubled_steps": sum(count - 1 for count in steps.values()),
        "left_behind": left_behind,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Torture and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        report = torture(Path(folder), options.kills, options.seed)
    if options.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key}: {value}")
    harmed = report["lost_steps"] or report["doubled_steps"] or not report["bitwise_equal"]
    harmed = harmed or report["left_behind"]
    if harmed or not report["equal_records"] or report["kills"] < options.kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
