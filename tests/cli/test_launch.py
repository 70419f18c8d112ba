"""What a launcher says of the other processes: half of it, garbage, or hosts that do not answer."""

import socket
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from refusals import invoke
from tiny_experiments import environment, listing

from distilcli.cli import launch
from distilcli.cli.launch import check_launch, is_main_process
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.errors import ConfigError, DistilError
from distilcli.training.processes import make_accelerator

WHOLE = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher sets, and nothing else of it."""

    def set_variables(**variables: str) -> None:
        for name in WHOLE:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "1"}, "RANK is set, but LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are n"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is set, but RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": ""}, "RANK is set, but RANK, LOCAL_RANK, WORLD_SIZE"),
        ({k: v for k, v in WHOLE.items() if k != "MASTER_PORT"}, "but MASTER_PORT is not"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number from 1 to 1048576"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', not a number from 1 to"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1', not a number from 1 to"),
        ({"WORLD_SIZE": "9" * 30}, "not a number from 1 to"),
        (WHOLE | {"RANK": "2"}, "RANK is '2', not a number from 0 to 1"),
        (WHOLE | {"RANK": "1\x1b[2J"}, "RANK is '1\\x1b[2J', not a number from 0 to 1"),
        (WHOLE | {"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', not a number from 0 to 1"),
        (WHOLE | {"MASTER_PORT": "99999"}, "MASTER_PORT is '99999', not a number from 0 to 65535"),
    ],
)
def test_an_environment_that_says_half_is_refused_aloud(
    launched, tiny_world, tmp_path, variables, message
):
    """By every command, and although the rank may say that another process prints."""
    launched(**variables)
    for command in ("prepare", "init-student", "train", "eval"):
        result = invoke(command, "--config", str(tiny_world.config), f"output_dir={tmp_path}")
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Launch with torchrun or accelerate" in result.stderr
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("variables", "main"),
    [
        ({}, True),
        ({"WORLD_SIZE": "1"}, True),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_PORT": "1"}, True),
        (WHOLE, False),
        (WHOLE | {"RANK": "0", "LOCAL_RANK": "0"}, True),
    ],
)
def test_a_whole_environment_is_taken(launched, variables, main):
    launched(**variables)
    check_launch()
    assert is_main_process() is main


def test_the_first_process_of_another_host_says_what_is_wrong_there(launched, tmp_path):
    """Its files may be others than those of the host that prints."""
    launched(**(WHOLE | {"LOCAL_RANK": "0"}))
    missing = str(tmp_path / "missing.yaml")
    assert invoke("train", "--config", missing).stderr == (
        f"error on rank 1: {missing}: no such file\n"
    )
    launched(**WHOLE)
    assert invoke("train", "--config", missing).stderr == ""


# Meeting the others


def refusal(world, seconds: float) -> DistilError:
    settings = world.experiment()
    settings["train"] |= {"timeout_seconds": seconds}
    AcceleratorState._reset_state(reset_partial_state=True)  # what an earlier test left
    try:
        with pytest.raises(DistilError) as caught:
            make_accelerator(MaskedLMExperiment.model_validate(settings))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    return caught.value


@pytest.fixture
def on_cpus(monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    for capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(capacity, "1024")  # so that none stays set


def test_a_port_that_is_in_use(on_cpus, launched, tiny_world):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        launched(**(WHOLE | {"RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": str(port)}))
        error = refusal(tiny_world, 5.0)
    assert error.exit_code == 1
    assert error.message == f"127.0.0.1:{port}: the port is in use by another program"
    assert error.hint == "Launch with another --master_port (MASTER_PORT)."


def test_processes_that_never_come_are_waited_for_as_long_as_the_settings_say(
    on_cpus, launched, tiny_world
):
    launched(**(WHOLE | {"RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "0"}))
    start = time.monotonic()
    error = refusal(tiny_world, 0.1)
    assert time.monotonic() - start < 600  # the default is half an hour
    assert error.exit_code == 1
    expected = "the processes of this launch do not meet at 127.0.0.1:0 within 0.1 s ("
    assert error.message.startswith(expected + "train.timeout_seconds): ")
    assert "all 2 processes were started" in error.hint


def test_more_processes_than_gpus(launched, tiny_world, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    launched(**WHOLE)
    error = refusal(tiny_world, 5.0)
    assert isinstance(error, ConfigError)
    assert error.message == "LOCAL_RANK is 1, but this host has 1 GPU"


def test_resume_command_launches_as_the_run_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["name=a b", "optim.lr=1e-4"]
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    plain = launch.resume_command(Path("my.yaml"), overrides)
    assert plain == "distilcli train --config my.yaml 'name=a b' optim.lr=1e-4 --resume"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    launched = launch.resume_command(Path("my.yaml"), overrides)
    assert launched == f"torchrun --nproc_per_node 2 -m {plain}"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    assert launch.resume_command(Path("my.yaml"), overrides) == launched
    of_two_hosts = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    of_two_hosts |= {"MASTER_ADDR": "first-host", "MASTER_PORT": "29500"}
    for name, value in of_two_hosts.items():
        monkeypatch.setenv(name, value)
    command, comment = launch.resume_command(Path("my.yaml"), overrides).split("  # ")
    assert command == launched.replace(
        "torchrun",
        "torchrun --nnodes 2 --node_rank 0 --master_addr first-host --master_port 29500",
    )
    assert "every other host" in comment
