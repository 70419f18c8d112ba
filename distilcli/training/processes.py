"""The processes of a run: what each is told of the others, and how they wait for one another."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DistributedType, broadcast_object_list

from distilcli.config.experiment import BaseExperiment
from distilcli.errors import ConfigError, DistilError, ProcessLostError
from distilcli.training.host_memory import settle_host_memory
from distilcli.training.hosts import connect_when_needed, gloo_group
from distilcli.training.tracking import check_trackers

_Found = TypeVar("_Found")


def make_accelerator(experiment: BaseExperiment) -> Accelerator:
    """The accelerator of one run: its devices, and plain data parallelism.

    On a CPU it also settles how the process keeps memory; call it before anything is computed.

    Raises:
        ConfigError: accelerate is configured for sharding, or for other devices than GPUs and CPUs;
            or a tracker is not installed.
        DistilError: the processes of the launch do not find one another.
    """
    _refuse_sharding(experiment)
    _check_gpus()
    check_trackers(experiment.train.trackers)
    connect_when_needed()
    gradients = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    processes = InitProcessGroupKwargs(timeout=timedelta(seconds=experiment.train.timeout_seconds))
    with _joining(experiment.train.timeout_seconds):
        accelerator = Accelerator(
            cpu=_launched_on_cpus(),
            kwargs_handlers=[gradients, processes],
            mixed_precision="no",
        )
    plain = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in plain:
        raise ConfigError(
            f"accelerate is configured for {accelerator.distributed_type.value}", _PLAIN_LAUNCH
        )
    if accelerator.device.type == "cpu":
        settle_host_memory()
    return accelerator


@contextmanager
def _joining(timeout_seconds: float) -> Iterator[None]:
    """Where the processes of a launch meet: the port is in use, a host is wrong, one never comes.

    Raises:
        DistilError: with the host and the port, and what torch says.
    """
    try:
        yield
    except torch.distributed.DistError as error:  # also raised where no process group is joined
        said = str(error).strip().splitlines()[0]
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if "EADDRINUSE" in said:
            raise DistilError(
                f"{where}: the port is in use by another program",
                "Launch with another --master_port (MASTER_PORT).",
            ) from error
        raise DistilError(
            f"the processes of this launch do not meet at {where} within "
            f"{timeout_seconds:g} s (train.timeout_seconds): {said}",
            "Check that the host and the port are right on every host, and that all "
            f"{os.environ.get('WORLD_SIZE')} processes were started.",
        ) from error


def single_accelerator() -> Accelerator:
    """The accelerator of a command that measures models in one process.

    On a CPU, too, the process keeps the memory that it frees from here on.
    """
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        settle_host_memory()
    return accelerator


# gloo counts milliseconds, up to 2^31.
_LONGEST_TIMEOUT = timedelta(days=20)
_SECONDS_BETWEEN_LOOKS = 0.02
_PLAIN_LAUNCH = "Launch with torchrun, or an accelerate config of MULTI_GPU, MULTI_CPU or NO."
_ROOM_FOR_A_TEACHER = " teacher.offload=true makes room for a large teacher."
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


def _refuse_sharding(experiment: BaseExperiment) -> None:
    """Refuse what `accelerate launch` sets for sharded training, before accelerate looks.

    On CPUs it would quietly leave them out, and the run would be another one than was asked for.

    Raises:
        ConfigError: naming the kind of sharding.
    """
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise ConfigError(
                f"accelerate is configured for {name} ({variable}), and students are trained with "
                "data parallelism alone",
                _PLAIN_LAUNCH + experiment.can_offload * _ROOM_FOR_A_TEACHER,
            )


def _check_gpus() -> None:
    """Refuse more processes on this host than it has GPUs; ConfigError."""
    gpus = torch.cuda.device_count()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    on_cpus = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")
    if gpus and not on_cpus and local_rank >= gpus:
        raise ConfigError(
            f"LOCAL_RANK is {local_rank}, but this host has {gpus} GPU{'s' if gpus > 1 else ''}",
            f"Start at most {gpus} processes here: --nproc_per_node {gpus}.",
        )


def _launched_on_cpus() -> bool:
    """Whether torchrun started several processes and only CPUs can join them.

    Unless it is told, accelerate then gives each process a run of its own, all in one folder.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    return "LOCAL_RANK" in os.environ and (found is None or found.type == "mps")


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """The main process goes through the block before the others, which wait for days if need be.

    accelerate's own waits no longer than `train.timeout_seconds`; a corpus may take hours.

    Raises:
        DistilError: the hosts cannot reach one another.
        ProcessLostError: another process ended instead of going through the block.
    """
    if accelerator.num_processes == 1:
        yield
        return
    patient = gloo_group(_LONGEST_TIMEOUT)
    # Now, while all are here: who connects to a process that has ended waits as long as the group.
    _meet(patient)
    if not accelerator.is_main_process:
        _meet(patient)
    yield
    if accelerator.is_main_process:
        _meet(patient)
    torch.distributed.destroy_process_group(patient)


def _meet(group: torch.distributed.ProcessGroup) -> None:
    """Wait until all processes of a group are here.

    Raises:
        ProcessLostError: another process has ended.
    """
    try:
        meeting = torch.distributed.barrier(group, async_op=True)
        # Not in one call, which would let no signal through before it returns.
        while not meeting.is_completed():
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        meeting.wait()
    except RuntimeError as error:
        raise ProcessLostError(
            f"another process of the run ended before its first step ({error})",
            "Look at what it said; then start the run again, with --resume.",
        ) from error


def of_main_process(accelerator: Accelerator, action: Callable[[], _Found]) -> _Found:
    """What `action` gives on the main process, on all of them; so is the error that it raises.

    All processes call this, and all go on or stop together.

    Raises:
        DistilError: what `action` raised.
    """
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [action()]
        except DistilError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], DistilError):
        raise outcome[0]
    found: _Found = outcome[0]
    return found
