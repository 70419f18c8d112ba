"""ERNIE (Sun et al. 2019, 2020): a BERT with other pretraining, in classes of its own.

ERNIE 2.0 and 3.0 also add an embedding of the task that a token is read for (`use_task_id` in
config.json). Nobody gives it here, so every token is of task 0, as without it in transformers. A
student copied from it is an ERNIE with fewer layers, which keeps these embeddings.
"""

from transformers import (
    ErnieConfig,
    ErnieForMaskedLM,
    ErnieForQuestionAnswering,
    ErnieForSequenceClassification,
    ErnieForTokenClassification,
)

from distilcli.models.families.bert import BERT
from distilcli.models.families.family import Embeddings, Table
from distilcli.models.families.same_structure import same_structure

_TASKS = Table("embeddings.task_type_embeddings", "task_type_vocab_size", there="use_task_id")

ERNIE = same_structure(
    BERT,
    name="ERNIE",
    config_class=ErnieConfig,
    masked_lm=ErnieForMaskedLM,
    task_models={
        "sequence": ErnieForSequenceClassification,
        "token": ErnieForTokenClassification,
        "span": ErnieForQuestionAnswering,
    },
    saved_by=("ErnieForPreTraining",),
    student=None,
    embeddings=Embeddings(others=(_TASKS,)),
    inherited=(*BERT.inherited, "use_task_id", "task_type_vocab_size"),
    known_in_javascript=False,
)
