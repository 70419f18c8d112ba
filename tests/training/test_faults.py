"""When something outside fails or is other than it should be: it is said, and nothing is lost."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from forked_scripts import ROOT, ForkedPopen
from tiny_experiments import listing, metrics, run, start_function, weights

from distilcli.cli.app import main
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.distillation import masked_lm, objective
from distilcli.errors import ConfigError, ModelError
from distilcli.training import checkpoints
from distilcli.training.processes import make_accelerator

KEEP_ALL = "train.keep_checkpoints=100"


# A full disk


def mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system that some checkpoints fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_full_disk_ends_the_run_and_loses_nothing(
    tiny_world, tmp_path, small_disk, num_processes
):
    command = ["train", "--config", str(tiny_world.config), KEEP_ALL]
    undisturbed = run(*command, f"output_dir={tmp_path}", num_processes=num_processes)
    assert undisturbed.code == 0, undisturbed.stderr
    full = run(*command, f"output_dir={small_disk}", num_processes=num_processes)
    assert full.code == 1
    lines = full.stderr.splitlines()
    [index] = [i for i, line in enumerate(lines) if "cannot be written" in line]
    assert "No space left on device" in lines[index]
    assert "Free disk space" in lines[index + 1]
    written = sorted((small_disk / "tiny" / "checkpoints").glob("step-*"))
    assert written

    mount("-o", "remount,size=100m", str(small_disk))
    again = [*command, f"output_dir={small_disk}", "--resume"]
    resumed = run(*again, num_processes=num_processes)
    assert resumed.code == 0, resumed.stderr
    assert "warning" not in resumed.stderr
    assert f"resumed after step {int(written[-1].name.removeprefix('step-'))}" in resumed.stderr
    assert weights(small_disk / "tiny") == weights(tmp_path / "tiny")
    assert metrics(small_disk / "tiny") == metrics(tmp_path / "tiny")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_dry_run_sees_that_the_disk_will_be_full(tiny_world, small_disk, num_processes):
    command = ["train", "--config", str(tiny_world.config), f"output_dir={small_disk}", "--dry-run"]
    refused = run(*command, KEEP_ALL, num_processes=num_processes)
    assert refused.code == 2
    # 24 steps: every fourth, the four that validation may find the best, the last.
    assert "for 11 checkpoints of" in refused.stderr
    assert "MiB are free" in refused.stderr
    assert "train.keep_checkpoints" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not any(small_disk.iterdir())


@pytest.mark.slow
def test_the_disk_that_a_dry_run_asks_for_is_enough(tiny_world, tmp_path):
    command = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    before = run(*command, "--dry-run", "--json").json
    assert run(*command).code == 0
    files = list(tmp_path.glob("tiny/checkpoints/step-*/*.safetensors"))
    number = len({file.parent for file in files})
    size = sum(file.stat().st_size for file in files) / 2**20 / number
    assert before["checkpoint_mib"] == pytest.approx(size, rel=0.15)  # headers, in so small a model
    taken = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) / 2**20
    assert taken < before["disk_needed_gib"] * 1024 < taken + 3 * size
    after = run(*command, "--dry-run", "--json").json
    assert (before["disk_needed_gib"] - after["disk_needed_gib"]) * 1024 == pytest.approx(taken)


# A folder that becomes read-only


def give_up_privileges() -> None:
    """Have permissions count for root, too: no more CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, sets) == 0
    for index in range(3):
        sets[index] &= ~0b110
    assert libc.capset(header, sets) == 0


def train_until_checkpoints_are_read_only(*arguments: str) -> None:
    """`train`; after its second checkpoint permissions change."""
    give_up_privileges()
    save = checkpoints.save
    saved = []

    def save_and_close(root: Path, *given: Any) -> Path:
        if len(saved) == 2:
            root.chmod(0o555)
        saved.append(save(root, *given))
        return saved[-1]

    checkpoints.save = save_and_close
    sys.argv = ["distilcli", *arguments]
    main()


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_ends_the_run_and_loses_nothing(tiny_world, tmp_path):
    command = ["train", "--config", str(tiny_world.config)]
    assert run(*command, f"output_dir={tmp_path / 'undisturbed'}").code == 0
    arguments = [*command, f"output_dir={tmp_path}"]
    ended = start_function(train_until_checkpoints_are_read_only, arguments).wait()
    (tmp_path / "tiny" / "checkpoints").chmod(0o755)
    assert ended.code == 1, ended.stderr
    assert "checkpoint cannot be written" in ended.stderr
    assert "Permission denied" in ended.stderr
    assert "fix the permissions" in ended.stderr
    assert "Traceback" not in ended.stderr
    resumed = run(*command, f"output_dir={tmp_path}", "--resume")
    assert resumed.code == 0, resumed.stderr
    assert "resumed after step 6 " in resumed.stderr  # the second: validation found it the best
    assert weights(tmp_path / "tiny") == weights(tmp_path / "undisturbed" / "tiny")
    assert metrics(tmp_path / "tiny") == metrics(tmp_path / "undisturbed" / "tiny")


def train_without_privileges(*arguments: str) -> None:
    give_up_privileges()
    sys.argv = ["distilcli", *arguments]
    main()


def test_a_finished_run_is_resumed_where_nothing_can_be_written(tiny_world, tmp_path):
    """On a file system that is read-only, or of another user; what is not finished is refused."""
    arguments = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    arguments += ["train.max_steps=2", "train.save_every=2", "validation.every=0"]
    assert run(*arguments).code == 0
    paths = [tmp_path, *tmp_path.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    before = listing(tmp_path)
    resumed = start_function(train_without_privileges, [*arguments, "--resume"]).wait()
    for path, mode in modes.items():
        path.chmod(mode)
    assert resumed.code == 0, resumed.stderr
    assert "this run is finished" in resumed.stderr
    assert listing(tmp_path) == before


# A student that cannot be written


def train_without_a_student(*arguments: str) -> None:
    def refuse(*_: Any) -> None:
        raise ModelError("student: the model cannot be written (No space left on device)", "Free.")

    objective.save_model = refuse
    sys.argv = ["distilcli", *arguments]
    main()


def test_a_student_that_cannot_be_written_is_written_by_the_next_resume(tiny_world, tmp_path):
    arguments = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    ended = start_function(train_without_a_student, arguments).wait()
    assert ended.code == 1
    assert "No space left on device" in ended.stderr
    assert "then --resume" in ended.stderr
    assert not (tmp_path / "tiny" / "student").exists()
    assert run(*arguments, "--resume").code == 0
    assert (tmp_path / "tiny" / "student" / "model.safetensors").exists()


# Text that takes longer to prepare than processes wait for one that hangs


def train_with_slow_preparation(*arguments: str) -> None:
    ensure_store = masked_lm.ensure_store

    def slowly(*given: Any) -> Any:
        time.sleep(15.0)
        return ensure_store(*given)

    masked_lm.ensure_store = slowly
    sys.argv = ["distilcli", *arguments]
    main()


@pytest.mark.slow
def test_the_others_wait_for_the_text_as_long_as_it_takes(tiny_world, tmp_path):
    arguments = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    arguments += ["train.timeout_seconds=10", "train.max_steps=2"]
    running = start_function(train_with_slow_preparation, arguments, num_processes=2)
    finished = running.wait()
    assert finished.code == 0, finished.stderr


# Sharding that accelerate is configured for


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "parallelism_config"),
    ],
)
def test_sharding_is_refused(tiny_world, monkeypatch, variable, name):
    """FSDP and its like are refused when they are on, not when they are off."""
    for capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(capacity, "1024")  # so that none stays set
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=name) as refused:
        make_accelerator(MaskedLMExperiment.model_validate(tiny_world.experiment()))
    assert "teacher.offload" in refused.value.hint
    monkeypatch.setenv(variable, "false")
    make_accelerator(MaskedLMExperiment.model_validate(tiny_world.experiment()))
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_accelerate_launch_with_fsdp_is_refused(tiny_world, tmp_path):
    """As a user meets it: accelerate's own launcher and configuration file."""
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "distributed_type: FSDP\nnum_processes: 2\nnum_machines: 1\nmixed_precision: 'no'\n"
        "use_cpu: true\nfsdp_config: {fsdp_version: 2}\n",
        encoding="utf-8",
    )
    words = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)),
        *("-m", "distilcli", "train"),
        *("--config", str(tiny_world.config), f"output_dir={tmp_path / 'runs'}"),
    ]
    python_path = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with (
        (tmp_path / "stderr").open("w") as stream,
        ForkedPopen(words, env=os.environ | python_path, stderr=stream) as launched,
    ):
        assert launched.wait() != 0
    assert "accelerate is configured for FSDP" in (tmp_path / "stderr").read_text()
    assert not (tmp_path / "runs").exists()
