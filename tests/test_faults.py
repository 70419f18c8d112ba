"""What happens when the disk is full or accelerate wants something else: said, and nothing lost."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_experiments import metrics, run, weights

from distilcli.config import Experiment
from distilcli.errors import ConfigError
from distilcli.training import make_accelerator

# Without rotation the checkpoints of the tiny experiment come to some 1.5 MiB each.
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


def test_a_full_disk_ends_the_run_and_loses_nothing(tiny_world, tmp_path, small_disk):
    command = ["train", "--config", str(tiny_world.config), KEEP_ALL]
    assert run(*command, f"output_dir={tmp_path}").code == 0
    full = run(*command, f"output_dir={small_disk}")
    assert full.code == 2
    *_, error, hint = full.stderr.strip().splitlines()
    assert "cannot be written" in error
    assert "No space left on device" in error
    assert "Free disk space" in hint
    assert "Traceback" not in full.stderr
    checkpoints = sorted((small_disk / "tiny" / "checkpoints").glob("step-*"))
    assert checkpoints

    mount("-o", "remount,size=100m", str(small_disk))
    resumed = run(*command, f"output_dir={small_disk}", "--resume")
    assert resumed.code == 0, resumed.stderr
    assert "warning" not in resumed.stderr
    assert f"resumed after step {int(checkpoints[-1].name.removeprefix('step-'))}" in resumed.stderr
    assert weights(small_disk / "tiny") == weights(tmp_path / "tiny")
    assert metrics(small_disk / "tiny") == metrics(tmp_path / "tiny")


def test_a_dry_run_sees_that_the_disk_will_be_full(tiny_world, small_disk):
    command = ["train", "--config", str(tiny_world.config), f"output_dir={small_disk}", "--dry-run"]
    refused = run(*command, KEEP_ALL, num_processes=2)
    assert refused.code == 2
    assert "102 checkpoints of" in refused.stderr
    assert "GiB are free" in refused.stderr
    assert "train.keep_checkpoints" in refused.stderr
    assert not any(small_disk.iterdir())


def test_the_disk_that_a_dry_run_asks_for_is_what_the_run_takes(tiny_world, tmp_path):
    command = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    before = run(*command, "--dry-run", "--json").json
    assert run(*command).code == 0
    files = list(tmp_path.glob("tiny/checkpoints/step-*/*.safetensors"))
    number = len({file.parent for file in files})
    size = sum(file.stat().st_size for file in files) / 2**20 / number
    assert before["checkpoint_mib"] == pytest.approx(size, rel=0.15)  # headers, in so small a model
    assert before["disk_needed_gib"] * 1024 > size * number
    after = run(*command, "--dry-run", "--json").json
    gone = before["disk_needed_gib"] - after["disk_needed_gib"]
    assert gone * 1024 == pytest.approx(size * number)


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
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=name) as refused:
        make_accelerator(Experiment.model_validate(tiny_world.experiment()))
    assert "teacher.offload" in refused.value.hint
    monkeypatch.setenv(variable, "false")
    make_accelerator(Experiment.model_validate(tiny_world.experiment()))


@pytest.mark.slow
def test_accelerate_launch_with_fsdp_is_refused(tiny_world, tmp_path):
    """As a user meets it: accelerate's own launcher and configuration file."""
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "distributed_type: FSDP\nnum_processes: 2\nnum_machines: 1\nmixed_precision: 'no'\n"
        "use_cpu: true\nfsdp_config: {fsdp_version: 2}\n",
        encoding="utf-8",
    )
    launched = subprocess.run(
        [
            *("accelerate", "launch", "--config_file", str(config), "-m", "distilcli", "train"),
            *("--config", str(tiny_world.config), f"output_dir={tmp_path / 'runs'}"),
        ],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert launched.returncode != 0
    assert "accelerate is configured for FSDP" in launched.stderr
    assert not (tmp_path / "runs").exists()
