"""Whether 1, 4 and 8 processes do the same: gradients, runs, resumes, kills.

    python scripts/development/many_processes.py [--kinds masked-lm tagging reranking embedding]

Tiny experiments of the tests, in gloo processes of one thread. For each kind: the gradient of one
step among 4 and 8 processes beside that of one; the same where a step has fewer samples than there
are processes; whole runs; runs that are killed and go on with another number of processes. Then,
under torchrun with 4 processes: one of them is killed in the middle of a step, and the run goes on
with 3; and torchrun is told to stop. Prints the largest differences, over the norm of a gradient
or of the weights, or over the value of a metric; exit code 1 where one is over 1e-4. Some three
minutes on two cores.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
KINDS = ("masked-lm", "tagging", "reranking", "embedding")
NUMBERS = (4, 8)
RESUMES = ((8, 3), (3, 8), (1, 4))
LIMIT = 1e-4
STEPS, SAVE_EVERY, KILLED_AT = 16, 4, 10
NO_DROPOUT = {"num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0}
STUDENT = "student/model.safetensors"


def experiments(folder: Path) -> dict[str, Callable[[], Any]]:
    """Of each kind, what makes its experiment without dropout and with a batch of 24."""
    from loss_settings import weights
    from task_models import make_model
    from tiny_embeddings import make_embeddings
    from tiny_experiments import make_world
    from tiny_tasks import make_tasks, pair_tokenizer

    def masked_lm() -> Any:
        return make_world(folder / "text").experiment() | {"student": NO_DROPOUT}

    def task(kind: str, head: str, outputs: int) -> Callable[[], Any]:
        def make() -> Any:
            tasks, teacher = make_tasks(folder / kind), str(folder / kind / "teacher")
            model = make_model("bert", head, outputs, 4, vocab=len(pair_tokenizer()))
            model.save_pretrained(teacher)
            pair_tokenizer().save_pretrained(teacher)
            return tasks.experiment(
                kind,
                teacher={"model": teacher, "precision": "fp32", "cache": None},
                student={"kind": "copied"} | NO_DROPOUT,
                loss=weights(soft_targets=0.7, labels=0.4, hidden_cosine=0.6),
                train={"precision": "fp32", "tokens_per_micro_batch": 256},
            )

        return make

    def embedding() -> Any:
        made = make_embeddings(folder / "embedding").experiment(student=NO_DROPOUT)
        made["teacher"] |= {"cache": None}
        return made

    return {
        "masked-lm": masked_lm,
        "tagging": task("tagging", "token", 3),
        "reranking": task("reranking", "sequence", 1),
        "embedding": embedding,
    }


def write_experiment(path: Path, tree: dict[str, Any], group: int) -> None:
    """With steps and batches that all kinds have alike."""
    tree = tree | {"name": "run", "optim": {"lr": 1e-3, "max_grad_norm": 0.5}}
    train = {"precision": "fp32", "global_batch_size": 24, "max_steps": STEPS, "log_every": 1}
    tree["train"] = tree["train"] | train | {"save_every": SAVE_EVERY}
    tree["validation"] = tree.get("validation", {}) | {"every": 8}
    if group > 1:
        tree["task"] = tree["task"] | {"group_size": group}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")


# In a process of its own


def take_step(folder: str, config: str, *overrides: str) -> None:
    """One rank: the gradient of the first step, after clipping."""
    from gradient_worker import gradient_of_step
    from safetensors.torch import save_file

    from distilcli.config.reading import load_experiment
    from distilcli.distillation.run_kinds import kind_of
    from distilcli.training.processes import make_accelerator
    from distilcli.training.steps import Stepper

    experiment: Any = load_experiment(Path(config), overrides)
    accelerator = make_accelerator(experiment)
    kind = kind_of(experiment)
    parts = kind.assemble_unsaved(accelerator.device, by_content=False)
    objective = kind.objective(parts, accelerator, lambda _: None, may_write=False)
    stepper = Stepper(experiment, objective, accelerator)
    stepper.distillation.train()
    save_file(gradient_of_step(stepper, 0), Path(folder) / str(accelerator.process_index))
    stepper.check_finite()
    stepper.close()
    accelerator.end_training()


def train_and_die(*arguments: str) -> None:
    """`train`; one of the processes is killed in the middle of a step."""
    from tiny_experiments import _main

    from distilcli.training.steps import Stepper

    patched: Any = Stepper
    accumulate = Stepper.accumulate_gradient

    def accumulate_or_die(stepper: Stepper, step: int, *rest: Any) -> Any:
        if step == KILLED_AT and os.environ["RANK"] == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        return accumulate(stepper, step, *rest)

    patched.accumulate_gradient = accumulate_or_die
    _main(*arguments)


# What is compared


def gradients(config: Path, folder: Path, *overrides: str) -> dict[int, float]:
    """Of each number of processes, how far its gradient is from that of one; of the worst rank."""
    from safetensors.torch import load_file
    from tiny_experiments import relative_difference, start_function

    found: dict[int, list[Any]] = {}
    for number in (1, *NUMBERS):
        own = folder / f"gradient-{number}"
        own.mkdir(exist_ok=True)
        arguments = [str(own), str(config), *overrides]
        finished = start_function(take_step, arguments, number).wait()
        if finished.code != 0:
            raise SystemExit(f"error: {finished.stderr}")
        found[number] = [load_file(own / str(rank)) for rank in range(number)]
    [alone] = found.pop(1)
    return {
        number: max(relative_difference(one, alone) for one in of_all)
        for number, of_all in found.items()
    }


def train(config: Path, output: Path, number: int) -> Path:
    """A whole run, or the rest of one; its folder."""
    from tiny_experiments import run

    arguments = ["train", "--config", str(config), f"output_dir={output}", "--resume"]
    finished = run(*arguments, num_processes=number)
    if finished.code != 0:
        raise SystemExit(f"error: {number} processes: {finished.stderr}")
    return output / "run"


def killed(config: Path, output: Path, number: int) -> None:
    """A run of so many processes that are killed some steps before the end."""
    from held_steps import start_held
    from tiny_experiments import last_step

    arguments = ["train", "--config", str(config), f"output_dir={output}"]
    running = start_held(KILLED_AT, output / "never", *arguments, num_processes=number)
    if not running.wait_until(lambda: last_step(output / "run") >= KILLED_AT):
        raise SystemExit(f"error: {running.wait().stderr}")
    running.kill()


def difference(run: Path, alone: Path) -> tuple[float, float]:
    """Of two finished runs: of the students' weights, and the largest of any metric."""
    from safetensors.torch import load_file
    from tiny_experiments import metrics, relative_difference

    weights = relative_difference(load_file(run / STUDENT), load_file(alone / STUDENT))
    largest = 0.0
    for one, other in zip(metrics(run), metrics(alone), strict=True):
        assert one.keys() == other.keys()
        assert one["step"] == other["step"]
        for key, value in other.items():
            largest = max(largest, abs(one[key] - value) / max(abs(value), 1e-3))
    return weights, largest


# Under torchrun


def torchrun(words: Sequence[str], number: int) -> subprocess.Popen[bytes]:
    from tiny_experiments import environment

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*launcher, "--nproc_per_node", str(number), *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_one_of_four(config: Path, output: Path, alone: Path) -> str:
    """SIGKILL to one in the middle of a step; the run goes on with three."""
    from tiny_experiments import last_step

    arguments = ["train", "--config", str(config), f"output_dir={output}"]
    started = torchrun([__file__, "--die", *arguments], 4)
    _, errors = started.communicate()
    done, kept = last_step(output / "run"), sorted((output / "run" / "checkpoints").iterdir())
    newest = int(kept[-1].name.removeprefix("step-"))
    assert started.returncode == 1, errors.decode()
    assert done == KILLED_AT
    assert newest == KILLED_AT // SAVE_EVERY * SAVE_EVERY
    weights, metric = difference(train(config, output, 3), alone)
    assert max(weights, metric) < LIMIT
    return (
        f"killed in step {done + 1}: went on after step {newest} with 3; "
        f"weights {weights:.1e}, metrics {metric:.1e}"
    )


def stop_torchrun(config: Path, output: Path, alone: Path) -> str:
    """SIGTERM to torchrun of four; the run goes on with four."""
    import held_steps
    from tiny_experiments import last_step

    output.mkdir()
    gate = output / "gate"
    arguments = ["train", "--config", str(config), f"output_dir={output}"]
    started = torchrun([held_steps.__file__, str(KILLED_AT), str(gate), *arguments], 4)
    while last_step(output / "run") < KILLED_AT and started.poll() is None:
        time.sleep(0.01)
    started.terminate()
    while not Path(f"{gate}.told").exists() and started.poll() is None:
        time.sleep(0.01)
    gate.touch()
    _, errors = started.communicate()
    said = [line.strip() for line in errors.decode().splitlines()]
    stopped = last_step(output / "run")
    newest = max((output / "run" / "checkpoints").iterdir()).name
    assert newest == f"step-{stopped:08d}", newest
    assert stopped < STEPS
    assert any(line.startswith("torchrun") and line.endswith("--resume") for line in said), said
    weights, metric = difference(train(config, output, 4), alone)
    assert max(weights, metric) < LIMIT
    return (
        f"SIGTERM: torchrun ended with {started.returncode} after a checkpoint of step {stopped}; "
        f"weights {weights:.1e}, metrics {metric:.1e}"
    )


def check(kind: str, tree: dict[str, Any], folder: Path) -> Path:
    """All comparisons of a kind; the folder of the run of one process."""
    config, few = folder / f"{kind}.yaml", folder / f"{kind}-few.yaml"
    group = tree["task"].get("group_size", 1) if "task" in tree else 1
    write_experiment(config, tree, min(group, 3))
    write_experiment(few, tree, min(group, 5))
    worst: list[float] = []

    def tell(what: str, *found: float) -> None:
        worst.extend(found)
        print(f"{kind:10} {what:32}" + "".join(f"{one:10.1e}" for one in found), flush=True)

    for number, found in gradients(config, folder).items():
        tell(f"gradient, {number} processes", found)
    for number, found in gradients(few, folder, "train.global_batch_size=5").items():
        tell(f"gradient, {number} processes, 5 samples", found)
    alone = train(config, folder / f"{kind}-1", 1)
    for number in NUMBERS:
        other = train(config, folder / f"{kind}-{number}", number)
        tell(f"run, {number} processes", *difference(other, alone))
    for before, after in RESUMES:
        output = folder / f"{kind}-{before}-{after}"
        output.mkdir()
        killed(config, output, before)
        other = train(config, output, after)
        tell(f"run, {before} processes, then {after}", *difference(other, alone))
    if max(worst) > LIMIT:
        raise SystemExit(f"error: {kind}: {max(worst):.1e} is more than rounding")
    return alone


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    print(f"{'kind':10} {'what':32}{'weights':>10}{'metrics':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, make in experiments(folder).items():
            if kind in options.kinds:
                (folder / kind.replace("masked-lm", "text")).mkdir()
                alone = check(kind, make(), folder)
                if kind == "masked-lm":
                    config = folder / f"{kind}.yaml"
                    print(kill_one_of_four(config, folder / "killed", alone))
                    print(stop_torchrun(config, folder / "stopped", alone))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(HELPERS)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HELPERS)])
    if sys.argv[1:2] == ["--die"]:
        train_and_die(*sys.argv[2:])
    else:
        main()
