"""`train --profile N`: where the time of a step goes.

Takes N steps under PyTorch's profiler, as training would, and keeps none of them.
"""

import gzip
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, schedule

from distilcli.config.experiment import BaseExperiment
from distilcli.distillation.objective import Objective
from distilcli.errors import ConfigError, RunFolderError
from distilcli.files.atomic import replacing, unwritten
from distilcli.training.steps import Stepper

_WARM_UP_STEPS = 2
_TOP = 15
_TOP_KERNELS = 10


@dataclass(frozen=True)
class Profile:
    """What a profile found.

    Attributes:
        steps: profiled.
        seconds_per_step: until the device is done, the profiler's own cost included.
        trace: file for chrome://tracing or Perfetto.
        operators: (name, share of the time, calls per step) of the costliest operators.
        kernels: the same of what runs on a GPU itself, as shares of the time that it is busy; empty
            on a CPU.
        idle_share: of the time from its first to its last kernel, how much the GPU had nothing to
            do; None on a CPU.
    """

    steps: int
    seconds_per_step: float
    trace: str
    operators: list[tuple[str, float, float]]
    kernels: list[tuple[str, float, float]]
    idle_share: float | None


class Activity(NamedTuple):
    """One kernel or copy on a device; times in microseconds."""

    name: str
    start: float
    end: float


def profile_steps(
    experiment: BaseExperiment,
    objective: Objective,
    accelerator: Accelerator,
    num_steps: int,
    trace: Path,
) -> Profile:
    """Take steps under the profiler and write their trace; the student's weights do change.

    Every rank takes the steps, the main process is looked at.

    Raises:
        ConfigError: the run has fewer steps than are to be profiled.
        NonFiniteLossError: a step's loss is not finite.
        RunFolderError: the trace cannot be written; WriteError where the disk is full.
    """
    stepper = Stepper(experiment, objective, accelerator)
    if stepper.total_steps < _WARM_UP_STEPS + num_steps:
        raise ConfigError(
            f"--profile {num_steps}: with {_WARM_UP_STEPS} to warm up that is more than the "
            f"{stepper.total_steps} steps of this run",
            "Profile fewer steps or raise train.max_steps.",
        )
    stepper.distillation.train()
    activities = [ProfilerActivity.CPU]
    if accelerator.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    plan = schedule(wait=0, warmup=_WARM_UP_STEPS, active=num_steps, repeat=1)
    start = 0.0
    batches = stepper.batches_from(0)
    with profile(activities=activities, schedule=plan, acc_events=True) as profiler:
        for step in range(_WARM_UP_STEPS + num_steps):
            if step == _WARM_UP_STEPS:
                stepper.check_finite()  # waits for the device, so that the clock starts with it
                start = time.perf_counter()
            stepper.take(step, next(batches))
            if step == _WARM_UP_STEPS + num_steps - 1:
                stepper.check_finite()
            profiler.step()
    seconds = (time.perf_counter() - start) / num_steps
    if accelerator.is_main_process:
        _write_trace(profiler, trace)
    stepper.close()
    activities_of_device = _activities(profiler)
    return Profile(
        num_steps,
        seconds,
        str(trace),
        _operators(profiler, accelerator, num_steps),
        costliest_kernels(activities_of_device, num_steps),
        idle_share(activities_of_device),
    )


def _activities(profiler: profile) -> list[Activity]:
    """What ran on a GPU."""
    return [
        Activity(event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        # Steps stand on the GPU's line, too, as what a user has named.
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]


def costliest_kernels(
    activities: Sequence[Activity], num_steps: int
) -> list[tuple[str, float, float]]:
    """(name, share of all kernels' time, calls per step) of the ten costliest, costliest first."""
    times: dict[str, float] = {}
    for one in activities:
        times[one.name] = times.get(one.name, 0.0) + one.end - one.start
    calls = Counter(one.name for one in activities)
    total = sum(times.values())
    top = sorted(times.items(), key=lambda item: -item[1])[:_TOP_KERNELS]
    return [(name, time_us / total, calls[name] / num_steps) for name, time_us in top]


def idle_share(activities: Sequence[Activity]) -> float | None:
    """Share of the time from the first start to the last end in which nothing ran.

    Kernels of several streams may overlap.
    """
    if not activities:
        return None
    in_order = sorted(activities, key=lambda one: one.start)
    first, end, idle = in_order[0].start, in_order[0].start, 0.0
    for one in in_order:
        idle += max(0.0, one.start - end)
        end = max(end, one.end)
    return idle / (end - first) if end > first else 0.0


def _write_trace(profiler: profile, trace: Path) -> None:
    try:
        with replacing(trace) as new:
            plain = new.with_name("trace.json")  # goes with the folder that `new` is made in
            profiler.export_chrome_trace(str(plain))
            with plain.open("rb") as source, gzip.open(new, "wb") as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        raise unwritten(
            f"{trace}:", error, RunFolderError, "Free disk space or choose another output_dir."
        ) from error


def _operators(
    profiler: profile, accelerator: Accelerator, num_steps: int
) -> list[tuple[str, float, float]]:
    """The costliest operators, with what their kernels take where there is a GPU."""
    times: dict[str, tuple[float, int]] = {}
    for event in profiler.key_averages():
        # A GPU's kernels stand in the list once more, by themselves, and so do whole steps.
        is_operator = event.device_type.name == "CPU" and not event.is_user_annotation
        if not is_operator or event.key.startswith("ProfilerStep"):
            continue
        on_gpu = accelerator.device.type == "cuda"
        time_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[event.key] = (time_us, event.count)
    total = sum(time_us for time_us, _ in times.values())
    top = sorted(times.items(), key=lambda item: -item[1][0])[:_TOP]
    return [(key, time_us / total, count / num_steps) for key, (time_us, count) in top]
