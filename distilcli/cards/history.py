"""How a student was made, as its run folder tells it: settings, steps, machine, versions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distilcli.config.experiment import BaseExperiment
from distilcli.files.json_text import parse_json
from distilcli.files.shown_paths import shown_tree
from distilcli.training.run_folder import RunFolder

_NOT_SHOWN = {"output_dir", "card"}
_SHOWN_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers")


@dataclass(frozen=True)
class Training:
    """How long a run trained.

    Attributes:
        steps: optimiser steps.
        tokens: that it was trained on.
        seconds: that this took, as far as the records of the steps say.
    """

    steps: int
    tokens: int
    seconds: float


def training_of(run: RunFolder) -> Training | None:
    """How long a run trained, by the records of its steps; None where there are none."""
    last: dict[int, tuple[int, float]] = {}
    for record in _records(run.metrics):
        step, tokens = record.get("step"), record.get("speed/tokens")
        speed = record.get("speed/tokens_per_second")
        if isinstance(step, int) and isinstance(tokens, int) and isinstance(speed, int | float):
            last[step] = tokens, tokens / speed if speed else 0.0
    if not last:
        return None
    return Training(max(last), sum(t for t, _ in last.values()), sum(s for _, s in last.values()))


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    record = parse_json(line)
                except ValueError:
                    continue  # cut short by a kill
                if isinstance(record, dict):
                    yield record
    except OSError:
        return


def machine_of(run: RunFolder) -> list[str]:
    """Lines on the machine and the versions that a run began with; none where nothing is known."""
    try:
        found = parse_json(run.environment.read_bytes())
    except (OSError, ValueError):
        return []
    if not isinstance(found, dict):
        return []
    devices = [str(one.get("name")) for one in found.get("cuda_devices") or []]
    cores = found.get("cpu_cores_usable")
    machine = f"Machine: {found.get('cpu')}, {cores} core{'' if cores == 1 else 's'}"
    if devices:
        machine = f"Machine: {len(devices)} x {devices[0]}"
    known = devices or found.get("cpu")  # earlier versions did not write it down
    packages = found.get("packages") or {}
    versions = [f"{name} {packages[name]}" for name in _SHOWN_PACKAGES if name in packages]
    own = [f"distilcli {found.get('distilcli')}", f"Python {found.get('python')}"]
    lines = [machine] if known else []
    return [*lines, f"Versions: {', '.join([*own, *versions])}"]


def settings_of(experiments: Sequence[tuple[str, BaseExperiment]]) -> str:
    """The settings that are not at their defaults, as YAML without the paths of this machine.

    Args:
        experiments: the stages of a run, by name, in their order; one without a name if it has
            none.
    """
    trees = []
    for name, experiment in experiments:
        tree = experiment.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_SHOWN)
        trees.append(shown_tree({**tree, "name": name or experiment.name}))
    tree = trees[0] if len(trees) == 1 else {"stages": trees}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=90)


def losses_of(experiment: BaseExperiment) -> list[str]:
    """The terms that it was trained on, with the largest weight that each had."""
    loss = getattr(experiment, "loss", None)
    terms = {} if loss is None else loss.terms
    weights = {name: term.largest_weight for name, term in terms.items()}
    return [f"`{name}` {weight:g}" for name, weight in weights.items() if weight]
