"""Opening a task: its examples read, checked and made inputs."""

from distilcli.config.tasks import (
    ClassificationTask,
    GlueTask,
    MultiLabelTask,
    QuestionAnsweringTask,
    RegressionTask,
    Task,
)
from distilcli.tasks import glue
from distilcli.tasks.classification import Classification, MultiLabel, Regression
from distilcli.tasks.question_answering import QuestionAnswering
from distilcli.tasks.tagging import Tagging
from distilcli.tasks.task import OpenTask, scikit_metrics
from distilcli.text.tokenizers import TextTokenizer


def open_task(
    task: Task, tokenizer: TextTokenizer, teacher_labels: list[str] | None = None
) -> OpenTask:
    """Read a task's examples.

    Args:
        task: the experiment's task.
        tokenizer: of the models.
        teacher_labels: names of a fine-tuned teacher's outputs; None without one.

    Raises:
        ConfigError: formats or classes cannot be told, or the extra `eval` is not installed.
        DataError: sources cannot be read, have bad rows (each is named), or none.
        ModelError: the teacher's classes are others than the task's.
    """
    if isinstance(task, GlueTask):
        task = glue.expand(task, teacher_labels)
    if isinstance(task, QuestionAnsweringTask):
        return QuestionAnswering(task, tokenizer)
    scikit_metrics()  # what scores it: better missed now than after hours of training
    if isinstance(task, ClassificationTask):
        return Classification(task, tokenizer, teacher_labels)
    if isinstance(task, MultiLabelTask):
        return MultiLabel(task, tokenizer, teacher_labels)
    if isinstance(task, RegressionTask):
        return Regression(task, tokenizer, teacher_labels)
    return Tagging(task, tokenizer, teacher_labels)
