"""What every process that tests fork has imported: see `tiny_experiments.start_function`.

Imported once, in the server, and then frozen: no collection in a forked process looks at it again,
which would take longer than most commands and copy the memory that is shared.
"""

import gc
from importlib.metadata import version

import datasets.arrow_writer  # noqa: F401
import transformers.models.auto.tokenization_auto  # noqa: F401
from transformers import (  # noqa: F401
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import distilcli.cli.app
import distilcli.cli.evaluate
import distilcli.cli.init_student
import distilcli.cli.prepare
import distilcli.cli.suite
import distilcli.cli.train  # noqa: F401

version("torch")  # where packages lie is looked up once
get_checkpoint_conversion_mapping("bert")  # a thousand patterns, compiled before the first model
gc.collect()
gc.freeze()
