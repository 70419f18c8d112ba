"""CamemBERT (Martin et al. 2020): a French RoBERTa, in classes of its own.

A student copied from it is a CamemBERT with fewer layers.
"""

from transformers import (
    CamembertConfig,
    CamembertForMaskedLM,
    CamembertForQuestionAnswering,
    CamembertForSequenceClassification,
    CamembertForTokenClassification,
)

from distilcli.models.families.roberta import ROBERTA
from distilcli.models.families.same_structure import same_structure

CAMEMBERT = same_structure(
    ROBERTA,
    name="CamemBERT",
    config_class=CamembertConfig,
    masked_lm=CamembertForMaskedLM,
    task_models={
        "sequence": CamembertForSequenceClassification,
        "token": CamembertForTokenClassification,
        "span": CamembertForQuestionAnswering,
    },
)
