"""The kinds of experiments, and which one a tree of settings is."""

from difflib import get_close_matches
from typing import Any

from distilcli.config.embedding import EMBEDDING, EmbeddingExperiment
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment

AnyExperiment = MaskedLMExperiment | TaskExperiment | EmbeddingExperiment
AnyKind = type[MaskedLMExperiment] | type[TaskExperiment] | type[EmbeddingExperiment]
_MISSPELT = 0.85  # of the letters are right
KINDS: tuple[AnyKind, ...] = (MaskedLMExperiment, TaskExperiment, EmbeddingExperiment)


def kind_of_tree(tree: dict[str, Any]) -> AnyKind:
    """The kind of experiment that a tree of settings is, by its section `task`."""
    if "task" not in tree:
        return MaskedLMExperiment
    task = tree["task"]
    kind = str(task.get("kind")) if isinstance(task, dict) else ""
    # One that is misspelt is told what it should be by the settings that it means.
    is_meant = bool(get_close_matches(kind, [EMBEDDING], cutoff=_MISSPELT))
    return EmbeddingExperiment if is_meant else TaskExperiment
