"""The kinds of experiments, and which one a tree of settings is."""

from typing import Any

from distilcli.config.embedding import EMBEDDING, EmbeddingExperiment
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment

AnyExperiment = MaskedLMExperiment | TaskExperiment | EmbeddingExperiment
AnyKind = type[MaskedLMExperiment] | type[TaskExperiment] | type[EmbeddingExperiment]
KINDS: tuple[AnyKind, ...] = (MaskedLMExperiment, TaskExperiment, EmbeddingExperiment)


def kind_of_tree(tree: dict[str, Any]) -> AnyKind:
    """The kind of experiment that a tree of settings is, by its section `task`."""
    if "task" not in tree:
        return MaskedLMExperiment
    task = tree["task"]
    is_embedding = isinstance(task, dict) and task.get("kind") == EMBEDDING
    return EmbeddingExperiment if is_embedding else TaskExperiment
