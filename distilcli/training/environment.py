"""What a run ran on, for its folder and for `distilcli env`: versions, machine, devices, commit.

Nothing here fails: what cannot be known is null, and a package that is broken is named with what it
says, since a report of that is what the command is for.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import distilcli

_PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "pyarrow",
    "pydantic",
    "typer",
    "rich",
    "pyyaml",
    "scikit-learn",
    "scipy",
    "onnx",
    "onnxruntime",
    "onnxscript",
)
# What changes how a run is computed or launched; no variable that may hold a secret.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
    "WORLD_SIZE",
)
_GIB = 2**30
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_CPU_INFO = Path("/proc/cpuinfo")


def describe_environment() -> dict[str, Any]:
    """Versions, hardware, command and commits, as far as they can be known.

    `commit` is that of the working directory, `distilcli_commit` that of the checkout that this
    package is run from. Memory is in GiB, and of a container its limit.
    """
    packages = {name: found for name in _PACKAGES if (found := _version(name)) is not None}
    return {
        "distilcli": distilcli.__version__,
        "distilcli_commit": _own_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "command": sys.argv,
        "commit": _answer(["git", "rev-parse", "HEAD"]),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_usable": _num_usable_cores(),
        "memory_gib": _memory_gib(),
        **_computing(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _computing() -> dict[str, Any]:
    """What PyTorch finds: threads, CUDA, devices, and where bf16 has hardware of its own."""
    found: dict[str, Any] = {"cpu_threads": None, "cpu_bf16": None, "cuda": None}
    found |= {"cuda_driver": None, "cuda_devices": [], "problem": None}
    try:
        import torch

        from distilcli.models.placement import computes_in_bf16

        found["cpu_threads"] = torch.get_num_threads()
        found["cpu_bf16"] = computes_in_bf16(torch.device("cpu"))
        found["cuda"] = torch.version.cuda
        found["cuda_devices"] = [
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / _GIB, 1),
                "bf16": computes_in_bf16(torch.device("cuda", index)),
            }
            for index in range(torch.cuda.device_count())
            if (properties := torch.cuda.get_device_properties(index))
        ]
        if found["cuda"] is not None:
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            found["cuda_driver"] = (_answer(query) or "").partition("\n")[0] or None
    except Exception as error:  # whatever a broken installation raises
        found["problem"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _own_commit() -> str | None:
    """The commit of the checkout with this package in it, with `-dirty` where files differ."""
    folder = str(Path(distilcli.__file__).parent)
    # An installed package may lie in a folder that someone else's repository ignores.
    if _answer(["git", "-C", folder, "ls-files", "--error-unmatch", "__init__.py"]) is None:
        return None
    described = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return _answer(["git", "-C", folder, *described])


def _cpu_model() -> str | None:
    """The name of the processor, as Linux says it; elsewhere what Python knows."""
    try:
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or None


def _num_usable_cores() -> int | None:
    """The cores that this process may use, which a cluster may have made fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gib() -> float | None:
    try:
        num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    try:
        limit = _CGROUP_MEMORY.read_text(encoding="ascii").strip()
        num_bytes = min(num_bytes, int(limit))
    except (OSError, ValueError):  # no container, or `max`
        pass
    return round(num_bytes / _GIB, 1)


def _answer(command: Sequence[str]) -> str | None:
    """What a program prints; None where it is missing, fails or takes too long."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
