"""`train --profile N`: where the time of a step goes.

Takes N steps under PyTorch's profiler, as training would, and keeps none of them.
"""

import gzip
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, schedule

from distilcli.assembly import Parts
from distilcli.config import Experiment
from distilcli.errors import RunFolderError
from distilcli.steps import Stepper

_WARM_UP_STEPS = 2
_TOP = 15


@dataclass(frozen=True)
class Profile:
    """What a profile found.

    Attributes:
        steps: profiled.
        seconds_per_step: on the clock, the profiler's own cost included.
        trace: file for chrome://tracing or Perfetto.
        operators: (name, share of the time, calls a step) of the costliest operators.
    """

    steps: int
    seconds_per_step: float
    trace: str
    operators: list[tuple[str, float, float]]


def profile_steps(
    experiment: Experiment, parts: Parts, accelerator: Accelerator, num_steps: int, trace: Path
) -> Profile:
    """Take steps under the profiler and write their trace; the student's weights do change.

    Every rank takes the steps, the main process is looked at.

    Raises:
        NonFiniteLossError: a step's loss is not finite.
        RunFolderError: the trace cannot be written.
    """
    stepper = Stepper(experiment, parts, accelerator)
    stepper.distillation.train()
    activities = [ProfilerActivity.CPU]
    if accelerator.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    plan = schedule(wait=0, warmup=_WARM_UP_STEPS, active=num_steps, repeat=1)
    steps = range(_WARM_UP_STEPS + num_steps)
    with profile(activities=activities, schedule=plan, acc_events=True) as profiler:
        for step, batches in zip(steps, stepper.batches_from(0), strict=False):
            stepper.take(step, batches)
            profiler.step()
    stepper.check_finite()
    if accelerator.is_main_process:
        _write_trace(profiler, trace)
    stepper.close()
    return _summary(profiler, accelerator.device, num_steps, trace)


def _write_trace(profiler: profile, trace: Path) -> None:
    try:
        trace.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=trace.parent) as folder:
            plain = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(plain))
            packed = Path(folder) / trace.name
            with plain.open("rb") as source, gzip.open(packed, "wb") as target:
                shutil.copyfileobj(source, target)
            packed.replace(trace)
    except OSError as error:
        raise RunFolderError(
            f"{trace}: cannot be written ({error})", "Free disk space or choose another output_dir."
        ) from error


def _summary(profiler: profile, device: torch.device, num_steps: int, trace: Path) -> Profile:
    averages = profiler.key_averages()
    on_device = device.type == "cuda"
    times = {
        event.key: (
            event.self_device_time_total if on_device else event.self_cpu_time_total,
            event.count,
        )
        for event in averages
        if not event.key.startswith("ProfilerStep")
    }
    total = sum(time for time, _ in times.values())
    top = sorted(times.items(), key=lambda item: -item[1][0])[:_TOP]
    wall = [event.cpu_time_total for event in averages if event.key.startswith("ProfilerStep")]
    return Profile(
        steps=num_steps,
        seconds_per_step=sum(wall) / num_steps / 1e6,
        trace=str(trace),
        operators=[(key, time / total, count / num_steps) for key, (time, count) in top],
    )
