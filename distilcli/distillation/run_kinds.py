"""Which kind of run an experiment is: an explicit table."""

from distilcli.config.embedding import EmbeddingExperiment
from distilcli.config.experiment import BaseExperiment, MaskedLMExperiment, TaskExperiment
from distilcli.distillation.embeddings import EmbeddingRun
from distilcli.distillation.masked_lm import MaskedLMRun
from distilcli.distillation.run_kind import AnyKind
from distilcli.distillation.tasks import TaskRun

KINDS: dict[type[BaseExperiment], type[AnyKind]] = {
    MaskedLMExperiment: MaskedLMRun,
    TaskExperiment: TaskRun,
    EmbeddingExperiment: EmbeddingRun,
}


def kind_of(experiment: BaseExperiment) -> AnyKind:
    """The kind of run that an experiment describes."""
    return KINDS[type(experiment)](experiment)
