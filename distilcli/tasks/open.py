"""Opening a task: its examples read, checked and made inputs. An explicit table of the kinds."""

from typing import Any

from distilcli.config.tasks import (
    BaseTask,
    ClassificationTask,
    GlueTask,
    MultiLabelTask,
    QuestionAnsweringTask,
    RegressionTask,
    RerankingTask,
    TaggingTask,
)
from distilcli.tasks import glue
from distilcli.tasks.classification import Classification
from distilcli.tasks.multi_label import MultiLabel
from distilcli.tasks.question_answering import QuestionAnswering
from distilcli.tasks.regression import Regression
from distilcli.tasks.reranking import Reranking
from distilcli.tasks.tagging import Tagging
from distilcli.tasks.task import OpenTask, scikit_metrics
from distilcli.text.tokenizers import TextTokenizer

# What is asked, by the section of settings that describes it.
KINDS: dict[type[BaseTask], type[OpenTask]] = {
    ClassificationTask: Classification,
    MultiLabelTask: MultiLabel,
    RegressionTask: Regression,
    RerankingTask: Reranking,
    QuestionAnsweringTask: QuestionAnswering,
    TaggingTask: Tagging,
}


def expanded(task: BaseTask, teacher_labels: list[str] | None) -> BaseTask:
    """The task that a section stands for: of a GLUE task the one that its name means."""
    return glue.expand(task, teacher_labels) if isinstance(task, GlueTask) else task


def open_task(
    task: BaseTask,
    tokenizer: TextTokenizer,
    teacher_labels: list[str] | None = None,
    may_lack_labels: bool = False,
) -> OpenTask:
    """Read a task's examples.

    Args:
        task: the experiment's task.
        tokenizer: of the models.
        teacher_labels: names of a fine-tuned teacher's outputs; None without one.
        may_lack_labels: whether rows of `task.train` may be without a label, because a teacher's
            outputs are targets; else they are bad rows.

    Raises:
        ConfigError: formats or classes cannot be told, or the extra `eval` is not installed.
        DataError: sources cannot be read, have bad rows (each is named), or none.
        ModelError: the teacher's classes are others than the task's.
    """
    task = expanded(task, teacher_labels)
    kind: Any = KINDS[type(task)]
    if kind.is_scored_by_scikit:
        scikit_metrics()  # better missed now than after hours of training
    opened: OpenTask = kind(task, tokenizer, teacher_labels, may_lack_labels)
    return opened
