"""What the processes of a run tell one another: counted in a real run, and reckoned for more.

    python scripts/benchmarks/exchanges.py --config FILE [--processes 4] [--json] [KEY=VALUE ...]
    python scripts/benchmarks/exchanges.py --size base --processes 2

Trains FILE, or a student of a BERT of that size with random weights, in gloo processes of one
thread, with a folder of its own for the run, and resumes it once. Every exchange is counted where
PyTorch dispatches it, also those that DistributedDataParallel makes by itself: in which phase of
the run, from where in the package, how often, with how many bytes. From that follow, for 1, 8, 64
and 1,024 processes, the bytes that the busiest one sends (of a gather: receives), and how many
messages wait for one another: by the algorithms of gloo, which `ALGORITHMS` names. FILE should take
a few steps, validate, and write a checkpoint before its end.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workload import SHAPES, Task, write_teacher, write_text

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(ROOT / "distilcli")
PROCESSES = (1, 8, 64, 1024)
# Of each operation: bytes that the busiest process moves, of a payload of 1 byte, and messages that
# wait for one another, among n processes.
ALGORITHMS: dict[str, tuple[str, Callable[[int], float], Callable[[int], int]]] = {
    "allreduce_": ("ring", lambda n: 2 * (n - 1) / n, lambda n: 2 * (n - 1)),
    "broadcast_": ("tree, the root's share", lambda n: _rounds(n), lambda n: _rounds(n)),
    "allgather_": ("ring", lambda n: n - 1, lambda n: n - 1),
    "gather_": ("all to the first", lambda n: n - 1, lambda n: n - 1),
    "barrier": ("dissemination", lambda n: _rounds(n), lambda n: _rounds(n)),
    "monitored_barrier_": ("the first asks all", lambda n: 2 * (n - 1), lambda n: 2 * (n - 1)),
    "send": ("between two", lambda _: 1, lambda _: 1),
}
# A phase begins with one of these methods and ends with it.
PHASES = {
    "Stepper.take": "step",
    "Stepper.accumulate_gradient": "gradient",
    "Trainer._flush_metrics": "log line",
    "Trainer._validate": "validation",
    "Trainer.save": "checkpoint",
    "Trainer.restore": "resume",
    "Trainer.finish": "end",
    "Trainer.close": "end",
}
START, FIRST_STEPS = "start", "first steps"
# After them DDP knows in which order gradients come, and has said so to all.
NUM_FIRST_STEPS = 2


def _rounds(n: int) -> int:
    return math.ceil(math.log2(n))


@dataclass
class Counts:
    """What one process exchanged.

    Attributes:
        calls: by phase, place in the package and operation.
        payload: bytes that go into them, likewise.
        entered: how often each phase came.
    """

    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    payload: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    entered: Counter[str] = field(default_factory=lambda: Counter({START: 1}))
    phase: str = START

    def add(self, operation: str, payload: int) -> None:
        """Count one."""
        key = (self.phase, _place(), operation)
        self.calls[key] += 1
        self.payload[key] += payload

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """In the block, what is counted belongs to a phase."""
        before, self.phase = self.phase, phase
        self.entered[phase] += 1
        yield
        self.phase = before

    def rows(self) -> list[list[Any]]:
        """Phase, place, operation, calls and bytes of one time that the phase comes."""
        return [
            [*key, calls / self.entered[key[0]], self.payload[key] / self.entered[key[0]]]
            for key, calls in self.calls.items()
        ]


def _place() -> str:
    """The function of the package that the call comes from."""
    frame = sys._getframe()
    while not frame.f_code.co_filename.startswith(PACKAGE):
        assert frame.f_back is not None, "all exchanges come from the package"
        frame = frame.f_back
    module = Path(frame.f_code.co_filename).relative_to(PACKAGE)
    return f"{module}: {frame.f_code.co_qualname.replace('.<locals>', '')}"


@contextmanager
def counting(counts: Counts) -> Iterator[None]:
    """Count every exchange of this thread in the block, by the phases of a run."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from distilcli.training.loop import Trainer
    from distilcli.training.steps import Stepper

    class Exchanges(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            operation = func._schema.name.partition("::")[2]
            if func.namespace == "c10d" and operation in ALGORITHMS:
                # Of a gather the second argument is what goes in; the first is for what comes out.
                given = args[1] if operation in ("allgather_", "gather_") else args[0]
                tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
                bare = operation in ("barrier", "monitored_barrier_")
                counts.add(operation, 0 if bare else sum(one.nbytes for one in tensors))
            return func(*args, **(kwargs or {}))

    originals = {}
    for owner in (Stepper, Trainer):
        for name, phase in PHASES.items():
            if name.startswith(f"{owner.__name__}."):
                method = name.partition(".")[2]
                originals[owner, method] = getattr(owner, method)
                setattr(owner, method, _in_phase(originals[owner, method], phase, counts))
    try:
        with Exchanges():
            yield
    finally:
        for (owner, method), original in originals.items():
            setattr(owner, method, original)


def _in_phase(method: Callable[..., Any], phase: str, counts: Counts) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        if counts.phase == FIRST_STEPS:  # the gradient of such a step
            return method(*args, **kwargs)
        is_first = phase == "step" and counts.entered[FIRST_STEPS] < NUM_FIRST_STEPS
        with counts.within(FIRST_STEPS if is_first else phase):
            return method(*args, **kwargs)

    return counted


def work(config: str, overrides: Sequence[str], folder: str, *, resume: bool) -> None:
    """One process: run, or resume, an experiment, and write down what it exchanged."""
    import torch

    from distilcli.cli import train
    from distilcli.cli.console import Console
    from distilcli.config.reading import load_experiment

    torch.set_num_threads(1)
    counts = Counts()
    experiment: Any = load_experiment(Path(config), [*overrides, f"output_dir={folder}"])
    with counting(counts):
        train.run(experiment, resume=resume, force=False, console=Console(as_json=True))
    name = f"{'resumed' if resume else 'run'}-{os.environ.get('RANK', '0')}.json"
    (Path(folder) / name).write_text(json.dumps(counts.rows()), encoding="utf-8")


def write_experiment(folder: Path, size: str) -> str:
    """An experiment of a few small steps; its student has half the layers of a BERT of a size."""
    task = Task(
        size=size,
        teacher=write_teacher(folder, size, max_length=128),
        text=write_text(folder, None, num_lines=100),
        folder=str(folder),
        device="cpu",
        threads=1,
        sequences=8,
        max_length=32,
        micro_batch=64,
        dropout=0.1,
        rounds=3,
        compile=False,
    )
    tree = task.experiment("all")
    tree["data"]["held_out_fraction"] = 0.1
    tree["train"] |= {"precision": "fp32", "save_every": 2, "log_every": 2}
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")  # which is YAML, too
    return str(path)


def count(config: str, overrides: Sequence[str], processes: int) -> list[dict[str, Any]]:
    """Run and resume; what each exchange came to, of the process that has the most of it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node", str(processes), __file__, "--config", config, *overrides]
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("run", "resumed"):
            worker = [*launcher, "--worker", folder, *(["--resume"] if kind == "resumed" else [])]
            done = subprocess.run(worker, env=environment, stdout=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                raise SystemExit(f"error: {processes} processes ended with {done.returncode}")
            for path in sorted(Path(folder).glob(f"{kind}-*.json")):
                for *key, calls, payload in json.loads(path.read_text(encoding="utf-8")):
                    if kind == "run" or key[0] == "resume":
                        before = found.get(tuple(key), (0.0, 0.0))
                        found[tuple(key)] = max(before, (calls, payload))
    return [
        {"phase": phase, "place": place, "operation": operation, "calls": calls, "bytes": payload}
        for (phase, place, operation), (calls, payload) in found.items()
    ]


def reckoned(row: dict[str, Any], counted: int, n: int) -> tuple[float, float]:
    """Bytes of the busiest process, and messages in a row, of one exchange among n processes.

    What two processes send one another, and what is added up in pairs that way, goes in rounds.
    What is gathered is dealt out: the more processes, the less each of them has.
    """
    _, share, messages = ALGORITHMS[row["operation"]]
    calls, payload = row["calls"], row["bytes"]
    if row["operation"] == "send":
        factor = _rounds(n) / _rounds(counted)
        calls, payload = calls * factor, payload * factor
    if row["operation"] == "gather_":
        payload = payload * counted / n
    return payload * share(n), calls * messages(n)


def report(rows: list[dict[str, Any]], counted: int) -> dict[str, Any]:
    """The rows, and what each phase comes to at other numbers of processes."""
    phases: dict[str, dict[int, tuple[float, float]]] = {}
    for row in rows:
        of_phase = phases.setdefault(row["phase"], dict.fromkeys(PROCESSES, (0.0, 0.0)))
        for n in PROCESSES:
            more = reckoned(row, counted, n)
            of_phase[n] = (of_phase[n][0] + more[0], of_phase[n][1] + more[1])
    return {"processes": counted, "rows": rows, "phases": phases}


def show(found: dict[str, Any]) -> None:
    """For people."""
    print(f"counted among {found['processes']} processes, each time that a phase comes:")
    print(f"{'phase':12}{'calls':>6}{'bytes':>15}  exchange, from where")
    for row in found["rows"]:
        operation = row["operation"].rstrip("_")
        counted = f"{row['calls']:6.4g}{row['bytes']:15,.0f}"
        print(f"{row['phase']:12}{counted}  {operation}, {row['place']}")
    print("\nreckoned: bytes of the busiest process, messages that wait for one another")
    print(f"{'phase':12}" + "".join(f"{n:>25,}" for n in PROCESSES))
    for phase, by_number in found["phases"].items():
        cells = (f"{payload:17,.0f}{messages:8,.0f}" for payload, messages in by_number.values())
        print(f"{phase:12}" + "".join(cells))


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, reckon and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, choices=(2, 4, 8), default=4)
    parser.add_argument("--json", action="store_true", help="print one object")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--config", help="experiment file")
    wanted.add_argument("--size", choices=sorted(SHAPES), help="of a BERT with random weights")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings to replace")
    options = parser.parse_args(arguments)
    if options.worker:
        work(options.config, options.overrides, options.worker, resume=options.resume)
        return
    with tempfile.TemporaryDirectory() as folder:
        config = options.config or write_experiment(Path(folder), options.size)
        rows = count(config, options.overrides, options.processes)
    found = report(rows, options.processes)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
