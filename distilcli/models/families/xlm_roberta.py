"""XLM-RoBERTa (Conneau et al. 2020): a RoBERTa of a hundred languages, in classes of its own.

A student copied from it is an XLM-RoBERTa with fewer layers.
"""

from transformers import (
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
)

from distilcli.models.families.roberta import ROBERTA
from distilcli.models.families.same_structure import same_structure

XLM_ROBERTA = same_structure(
    ROBERTA,
    name="XLM-RoBERTa",
    config_class=XLMRobertaConfig,
    masked_lm=XLMRobertaForMaskedLM,
    task_models={
        "sequence": XLMRobertaForSequenceClassification,
        "token": XLMRobertaForTokenClassification,
        "span": XLMRobertaForQuestionAnswering,
    },
)
