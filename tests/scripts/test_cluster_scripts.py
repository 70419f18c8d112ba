"""The scripts for clusters, run for real: two nodes on one machine, and Slurm's commands played."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import held_steps
import psutil
import pytest
from safetensors.torch import load_file
from tiny_experiments import environment, last_step, metrics, relative_difference, run

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
STEPS = 24
PATIENCE = 600.0

# What Slurm provides, as far as slurm.sbatch uses it: two nodes, both this machine.
PLAYED = {
    "scontrol": '[ "$1" = show ] && printf "127.0.0.1\\n127.0.0.1\\n" || echo "$*" >>"$CALLS"',
    "srun": """shift
for node in 0 1; do SLURM_NODEID=$node "$@" & jobs="$jobs $!"; done
code=0
for job in $jobs; do wait "$job" || code=$?; done
exit $code""",
    "nvidia-smi": "exit 9",
}

SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "a,b", "SLURM_JOB_NUM_NODES": "2"}

# What every Python reads at its start; in a training process it has a run held: held_steps.py.
HOLDING = """
import sys
if sys.orig_argv[1:5] == ["-u", "-m", "distilcli", "train"]:
    sys.path.insert(0, TESTS)
    import held_steps
    held_steps.hold_until_open(STEP, GATE)
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def played(tmp_path) -> dict[str, str]:
    """The environment of a node, with the commands above in front of all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in PLAYED.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    paths = [str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    repository = os.pathsep.join([str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    return environment() | {
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": repository,
        "CALLS": str(tmp_path / "calls"),
        "MASTER_PORT": str(free_port()),
    }


def held(environment: dict[str, str], folder: Path, step: int) -> dict[str, str]:
    """An environment in which no run takes step `step` until the file `gate` is in a folder."""
    values = {"TESTS": Path(held_steps.__file__).parent, "GATE": folder / "gate"}
    text = HOLDING.replace("STEP", str(step))
    for name, value in values.items():
        text = text.replace(name, repr(str(value)))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return environment | {"PYTHONPATH": os.pathsep.join([str(folder), environment["PYTHONPATH"]])}


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


def start(script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPTS / script), *arguments],
        cwd=SCRIPTS.parent,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_nodes(environment: dict[str, str], *arguments: str) -> list[subprocess.Popen[str]]:
    variables = environment | {"NUM_NODES": "2", "MASTER_ADDR": "127.0.0.1"}
    return [
        start("multi_node.sh", *arguments, **(variables | {"NODE_RANK": str(rank)}))
        for rank in range(2)
    ]


def wait_for_step(folder: Path, step: int, *processes: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while last_step(folder) < step:
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes), processes[0].stderr.read()
        time.sleep(0.002)


def kill_family(process: subprocess.Popen[str]) -> None:
    family = psutil.Process(process.pid)
    for member in [*family.children(recursive=True), family]:
        member.kill()
    process.communicate()


def assert_same_student(found: Path, expected: Path) -> None:
    """But for the rounding of sums over two processes; dropout is off."""
    students = (load_file(folder / "student" / "model.safetensors") for folder in (found, expected))
    assert relative_difference(*students) < 1e-5
    assert [record["step"] for record in metrics(found)] == list(range(1, STEPS + 1))


@pytest.fixture
def arguments(tiny_world, tmp_path) -> list[str]:
    still = ["student.dropout=0", "student.attention_dropout=0"]
    config = ["--config", str(tiny_world.config), *still]
    finished = run("train", *config, f"output_dir={tmp_path / 'undisturbed'}")
    assert finished.code == 0, finished.stderr
    return [*config, f"output_dir={tmp_path / 'runs'}"]


@pytest.mark.slow
def test_two_nodes_one_of_which_dies(tmp_path, played, arguments):
    """The other ends by itself; a single process goes on."""
    folder = tmp_path / "runs" / "tiny"
    there = held(played, tmp_path, 9)
    first, second = start_nodes(there, *arguments, "train.timeout_seconds=30")
    wait_for_step(folder, 9, first, second)
    kill_family(second)
    (tmp_path / "gate").touch()
    _, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode != 0
    assert "one of 2 processes has ended" in errors
    assert last_step(folder) == 9
    finished = run("train", "--resume", *arguments)
    assert finished.code == 0, finished.stderr
    assert "resumed after step" in finished.stderr
    assert_same_student(folder, tmp_path / "undisturbed" / "tiny")


@pytest.mark.slow
def test_a_job_that_runs_out_of_time_goes_back_into_the_queue(tmp_path, played, arguments):
    folder = tmp_path / "runs" / "tiny"
    job = start("slurm.sbatch", *arguments, **(held(played, tmp_path, 6) | SLURM))
    wait_for_step(folder, 6, job)
    os.kill(job.pid, signal.SIGUSR1)  # as Slurm does with B:USR1
    wait_for(tmp_path / "gate.told")
    (tmp_path / "gate").touch()
    _, errors = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, errors
    assert Path(played["CALLS"]).read_text(encoding="utf-8") == "requeue 4711\n"
    assert "stopped by SIGUSR1 after step" in errors
    assert last_step(folder) < STEPS
    finished = run("train", "--resume", *arguments)
    assert finished.code == 0, finished.stderr
    assert_same_student(folder, tmp_path / "undisturbed" / "tiny")


def play_torchrun(folder: Path, code: int) -> None:
    """One that writes down what it is told, and ends."""
    torchrun = folder / "bin" / "torchrun"
    torchrun.write_text(f'#!/bin/sh\necho "$*" >>"$CALLS"\nexit {code}\n', encoding="utf-8")
    torchrun.chmod(0o755)


@pytest.mark.parametrize(("given", "number"), [({}, 1), ({"NUM_PROCESSES": "3"}, 3)])
def test_one_machine(tmp_path, played, given, number):
    """There is no GPU, so one process unless it is told."""
    play_torchrun(tmp_path, 3)
    launched = start("launch.sh", "--config", "a b.yaml", "name=c", **(played | given))
    launched.communicate(timeout=PATIENCE)
    assert launched.returncode == 3
    words = "-m distilcli train --resume --config a b.yaml name=c"
    expected = f"--standalone --nproc_per_node {number} {words}\n"
    assert Path(played["CALLS"]).read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ends_is_not_put_back(tmp_path, played, code):
    """Whether it comes to its end or fails; each node has started its processes, to go on."""
    play_torchrun(tmp_path, code)
    job = start("slurm.sbatch", "--config", "a b.yaml", **(played | SLURM))
    _, errors = job.communicate(timeout=PATIENCE)
    assert job.returncode == code, errors
    port = 20000 + 4711
    there = f"--nproc_per_node 1 --master_addr 127.0.0.1 --master_port {port}"
    assert sorted(Path(played["CALLS"]).read_text(encoding="utf-8").splitlines()) == [
        f"--nnodes 2 --node_rank {rank} {there} -m distilcli train --resume --config a b.yaml"
        for rank in range(2)
    ]


@pytest.mark.parametrize(
    ("script", "said"), [("launch.sh", "usage: "), ("multi_node.sh", "NUM_NODES is not set")]
)
def test_how_to_call_it(played, script, said):
    job = start(script, **played)
    _, errors = job.communicate(timeout=PATIENCE)
    assert job.returncode == 2
    assert said in errors
