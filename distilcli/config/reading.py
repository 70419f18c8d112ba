"""Experiment files: `load_experiment(path, overrides)` gives an experiment, `dump` writes one.

Defaults < file < dotted overrides, whose values are YAML too. A mistake is answered with the file
or the override, the key as the user wrote it, and the nearest valid name.

    distilcli train --config configs/quickstart.yaml optim.lr=1e-4 student.layers=spread
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distilcli.config.experiment import BaseExperiment, MaskedLMExperiment
from distilcli.config.fields import Section
from distilcli.config.kinds import KINDS, AnyExperiment, kind_of_tree
from distilcli.config.mistakes import describe
from distilcli.config.overrides import Override, lay_over, parse_key, parse_override
from distilcli.config.renamed import with_new_names
from distilcli.config.stages import STAGES, StagedExperiment, has_stages, stages_of
from distilcli.config.yaml_tree import read_yaml
from distilcli.errors import ConfigError

_NO_FILE = "Give --config an experiment file."


def load_masked_lm_experiment(
    path: Path, overrides: Sequence[str] | None = None
) -> MaskedLMExperiment:
    """Read an experiment of masked-LM training; see `load_experiment`.

    Raises:
        ConfigError: the experiment is on a task, or whatever `load_experiment` refuses.
    """
    return masked_lm_only(load_experiment(path, overrides), path)


def masked_lm_only(experiment: AnyExperiment, path: Path) -> MaskedLMExperiment:
    """The experiment, if it is one of masked-LM training.

    Args:
        experiment: of either kind.
        path: where it is from, for messages.

    Raises:
        ConfigError: it is on a task.
    """
    if not isinstance(experiment, MaskedLMExperiment):
        raise ConfigError(
            f"{path}: this experiment is on a task", "A masked-LM experiment is needed here."
        )
    return experiment


def load_experiment(path: Path, overrides: Sequence[str] | None = None) -> AnyExperiment:
    """Read an experiment file and lay `key.sub=value` overrides over it.

    One with a `task` is on a task, or on embeddings; any other is masked-LM training.

    Raises:
        ConfigError: the file is missing, not YAML or has a key twice, an override is malformed, a
            key is unknown (with the nearest valid name), or a value has the wrong type or bound; or
            it has several stages.
    """
    experiment = load_any_experiment(path, overrides)
    if isinstance(experiment, StagedExperiment):
        raise ConfigError(
            f"{path}: an experiment without stages is needed here",
            "Once it runs, each stage has an experiment.yaml of its own in runs/NAME/stages/.",
        )
    return experiment


def load_any_experiment(
    path: Path, overrides: Sequence[str] | None = None
) -> AnyExperiment | StagedExperiment:
    """Read an experiment file, which may have several stages; see `load_experiment`."""
    tree = read_yaml(path, _NO_FILE)
    parsed = [parse_override(text) for text in overrides or []]
    if has_stages(tree) or any(override.key[0] == STAGES for override in parsed):
        return stages_of(_with_overrides(tree, parsed), path, tree, parsed)
    experiment = build(tree, overrides, kind_of_experiment, path)
    assert isinstance(experiment, KINDS)
    return experiment


def load_of_run(path: Path, overrides: Sequence[str] | None = None) -> AnyExperiment:
    """Read the experiment that a run wrote down, of this version or an earlier one.

    Keys may have the names that they had then; in `overrides` they must have those of now. Of a run
    with several stages it is that of the last one, under the name of the run.

    Raises:
        ConfigError: see `load_experiment`.
    """
    tree = read_yaml(path)
    if has_stages(tree):
        last = stages_of(tree, path, tree, of_run=True).as_one(-1)
        tree = last.model_dump(mode="json")
    experiment = build(
        with_new_names(tree, kind_of_experiment(tree)), overrides, kind_of_experiment, path
    )
    assert isinstance(experiment, KINDS)
    return experiment


def kind_of_experiment(tree: dict[str, Any]) -> type[Section]:
    """Which settings the tree of an experiment is.

    Raises:
        ConfigError: it has several stages.
    """
    if has_stages(tree):
        raise ConfigError(f"{STAGES}: an experiment without stages is needed here")
    return kind_of_tree(tree)


def read(
    path: Path,
    overrides: Sequence[str] | None,
    kind_of: Callable[[dict[str, Any]], type[Section]],
) -> Section:
    """Read a file of settings and lay overrides over it; see `build`."""
    return build(read_yaml(path, _NO_FILE), overrides, kind_of, path)


def build(
    tree: dict[str, Any],
    overrides: Sequence[str] | None,
    kind_of: Callable[[dict[str, Any]], type[Section]],
    path: Path,
) -> Section:
    """Settings from a tree and `key.sub=value` overrides.

    Args:
        tree: as YAML gives it.
        overrides: from the command line.
        kind_of: which settings the tree is, overrides included.
        path: where the tree is from, for messages.

    Raises:
        ConfigError: see `load_experiment`.
    """
    parsed = [parse_override(text) for text in overrides or []]
    laid_over = _with_overrides(tree, parsed)
    kind = kind_of(laid_over)
    try:
        return kind.model_validate(laid_over)
    except ValidationError as error:
        raise ConfigError(describe(error, kind, path, tree, parsed)) from error


def _with_overrides(tree: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    found = copy.copy(tree)
    for override in overrides:
        lay_over(found, override)
    return found


def described(
    error: ValidationError,
    kind: type[Section],
    path: Path,
    tree: dict[str, Any],
    overrides: Mapping[str, str],
) -> str:
    """What is wrong with a tree of `kind` that was made of the settings in `path`.

    Args:
        error: what pydantic found.
        kind: what the tree should be.
        path: where it is from, for messages.
        tree: the settings, overrides included.
        overrides: by their text, the key of the tree that each has set.
    """
    parsed = [
        replace(parse_override(text), key=parse_key(dotted)) for text, dotted in overrides.items()
    ]
    return describe(error, kind, path, tree, parsed)


def dump(experiment: BaseExperiment) -> str:
    """The whole tree, defaults included, as YAML that `load` reads back to an equal tree."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
