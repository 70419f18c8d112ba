"""How much memory a process of a benchmark takes: of a GPU, or resident in the host's."""

from pathlib import Path


def forget_peak_memory(device: str) -> None:
    """So that what was before, such as loading the models, does not count."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_gib(device: str) -> float:
    """The most since `forget_peak_memory`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    # Not getrusage: its figure is at least that of the process that started this one.
    return _status_gib("VmHWM")


def held_memory_gib(device: str) -> float:
    """What is held now."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated() / 2**30
    return _status_gib("VmRSS")


def _status_gib(entry: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith(entry)]
    return int(line.split()[1]) / 2**20
