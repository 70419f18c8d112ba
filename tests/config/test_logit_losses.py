"""Which losses look at logits is said of their settings as it is of their terms."""

from loss_settings import weights

from distilcli.config.losses import LossConfig
from distilcli.losses.table import MASKED_LM_TERMS
from distilcli.losses.terms import VocabularyTerm


def test_the_settings_and_the_terms_say_the_same():
    sections = LossConfig().terms
    for term in MASKED_LM_TERMS:
        assert sections[term.name].on_logits == issubclass(term, VocabularyTerm)


def test_a_loss_asks_for_logits_as_soon_as_one_term_does():
    none = dict.fromkeys(LossConfig().terms, 0.0)
    for term in MASKED_LM_TERMS:
        loss = LossConfig.model_validate(weights(**none | {term.name: 1.0}))
        assert loss.asks_for_logits == issubclass(term, VocabularyTerm)
