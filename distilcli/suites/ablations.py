"""An ablation: the base experiment and each change of it, with the same seeds.

A change with a seed is a run like those of a suite: `runs.take` takes them, several at a time and
none twice. Where all shall train for the same time, each change is tried first, for a few steps
that say how many fit into the budget.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distilcli.config.ablation import BASE, CHANGES, Ablation
from distilcli.config.embedding import EmbeddingExperiment
from distilcli.config.experiment import BaseExperiment, MaskedLMExperiment
from distilcli.config.overrides import (
    Override,
    laid_over,
    lay_over,
    named,
    parse_key,
    parse_override,
)
from distilcli.config.reading import build, described, kind_of_experiment
from distilcli.config.stages import STAGES, has_stages
from distilcli.config.yaml_tree import read_yaml
from distilcli.errors import ConfigError
from distilcli.suites.plan import SuiteRun
from distilcli.suites.run_lengths import PROBE_EVERY, PROBE_STEPS


def is_ablation(path: Path) -> bool:
    """Whether a file is an ablation, and no suite of tasks; ConfigError: it cannot be read."""
    return not {"base", "changes"}.isdisjoint(read_yaml(path))


def load_ablation(path: Path, overrides: Sequence[str]) -> Ablation:
    """Read an ablation, and the experiment that it names, and lay overrides over both.

    Raises:
        ConfigError: as `config.reading.load_experiment`.
    """
    tree, others = read_yaml(path), []
    for text in overrides:
        override = parse_override(text)
        if override.key == (BASE,):
            tree[BASE] = override.value
        else:
            _check_change(override, tree.get(CHANGES))
            others.append(text)
    if isinstance(tree.get(BASE), str):
        tree[BASE] = read_yaml(Path(tree[BASE]), f"{BASE} names the file of an experiment.")
    ablation = build(tree, others, lambda _: Ablation, path)
    assert isinstance(ablation, Ablation)
    return ablation


def _check_change(override: Override, changes: Any) -> None:
    """Refuse a setting of a change that the file does not have: its name is mistyped."""
    section, *below = override.key
    if section != CHANGES or len(below) < 2 or not isinstance(changes, dict):
        return
    if below[0] not in changes:
        raise ConfigError(
            f"{named(override.text)}: the file has no change {below[0]}, but {', '.join(changes)}",
            f"Choose one of these, or give a new one whole: {CHANGES}.{below[0]}='{{KEY: VALUE}}'.",
        )


def plan_ablation(
    ablation: Ablation,
    seeds: int,
    where: Path,
    overrides: Sequence[str] = (),
    steps: Mapping[str, int] | None = None,
) -> list[SuiteRun]:
    """All runs, seed by seed: the base, then its changes.

    Args:
        ablation: what is compared.
        seeds: how many, from 1.
        where: the file of the ablation, for messages.
        overrides: those that were laid over it, for messages.
        steps: of each change, where the budget is of seconds.

    Raises:
        ConfigError: settings that no experiment can have.
    """
    runs = []
    for seed in range(1, seeds + 1):
        for name in (BASE, *ablation.changes):
            tree = _tree_of(ablation, name, f"{name}-{seed}", seed, where)
            if ablation.budget is not None:
                ends: dict[str, int | None] = {"max_steps": None, "max_tokens": None}
                if ablation.equal == "tokens":
                    ends["max_tokens"] = int(ablation.budget)
                else:
                    ends["max_steps"] = steps[name] if steps else int(ablation.budget)
                tree["train"] = _section(tree, "train") | ends
            experiment = _checked(tree, name, where, overrides)
            runs.append(SuiteRun(ablation.name, name, seed, experiment))
    return runs


def plan_probes(ablation: Ablation, where: Path, overrides: Sequence[str] = ()) -> list[SuiteRun]:
    """A short run of each change, which is only there to see how long a step takes.

    Raises:
        ConfigError: settings that no experiment can have.
    """
    probes = []
    for name in (BASE, *ablation.changes):
        tree = _tree_of(ablation, name, f"{name}-probe", 0, where)
        short = {"max_steps": PROBE_STEPS, "max_tokens": None, "log_every": PROBE_EVERY}
        tree["train"] = _section(tree, "train") | short | {"save_every": PROBE_STEPS}
        tree["validation"] = _section(tree, "validation") | {"every": 0}
        experiment = _checked(tree, name, where, overrides)
        probes.append(SuiteRun(ablation.name, name, 0, experiment))
    return probes


def _tree_of(ablation: Ablation, name: str, run: str, seed: int, where: Path) -> dict[str, Any]:
    """The settings of one run, as they are written."""
    tree = copy.copy(ablation.base)
    for dotted, value in ablation.changes.get(name, {}).items():
        key = parse_key(dotted)
        value = laid_over({dotted: _at(tree, key)}, {dotted: value})[dotted]
        try:
            lay_over(tree, Override(dotted, key, value))
        except ConfigError as error:
            # In the file it is a key of the change, however it is written there.
            problem = error.message.removeprefix(f"{named(dotted)}: ")
            message = f"{where}: changes.{name}: {dotted}: {problem}"
            raise ConfigError(message, error.hint) from error
    return tree | {"name": run, "output_dir": str(ablation.folder), "seed": seed}


def _at(tree: Any, key: Sequence[str | int]) -> Any:
    """What a tree of settings has at a key; None where it has nothing."""
    for part in key:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, dict) else {}


def _checked(
    tree: dict[str, Any], name: str, where: Path, overrides: Sequence[str]
) -> BaseExperiment:
    place = BASE if name == BASE else f"change {name}"
    if has_stages(tree):
        raise ConfigError(f"{where}: {STAGES}: an experiment without stages is needed ({place})")
    kind = kind_of_experiment(tree)
    try:
        experiment = kind.model_validate(tree)
    except ValidationError as error:
        keys = _keys_set_by(overrides, name)
        said = described(error, kind, where, tree, keys)
        raise ConfigError(f"{said} ({place})") from error
    assert isinstance(experiment, BaseExperiment)
    _refuse_unmeasured(experiment, place, where)
    return experiment


def _refuse_unmeasured(experiment: BaseExperiment, place: str, where: Path) -> None:
    if isinstance(experiment, EmbeddingExperiment) and not experiment.task.is_measured:
        raise ConfigError(
            f"{where}: task.dev and task.retrieval are null: there is nothing to compare on "
            f"({place})",
            "Name pairs with a score: task.dev={files: ...}.",
        )
    if not isinstance(experiment, MaskedLMExperiment):
        return  # a task has its dev examples
    if not (experiment.data.held_out_fraction or experiment.data.held_out_sources):
        raise ConfigError(
            f"{where}: data.held_out_fraction is 0: there is no text to compare on ({place})",
            "Set it above 0, or name data.held_out_sources.",
        )


def _keys_set_by(overrides: Sequence[str], name: str) -> dict[str, str]:
    """By each override of an ablation, the key that it has set in the experiments of a change."""
    keys = {}
    for text in overrides:
        key = text.partition("=")[0]
        for section in (f"{BASE}.", f"changes.{name}."):
            if key.startswith(section):
                keys[text] = key.removeprefix(section)
    return keys
