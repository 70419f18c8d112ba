"""Which loss terms there are.

A new one takes three places: a file of this folder, an entry here, and a section of `loss` in the
settings (`config/losses.py`) under its name. The order is that in which sums are added up and
recorded.
"""

from collections.abc import Mapping, Sequence

from distilcli.losses.attention_distributions import AttentionDistributions
from distilcli.losses.attention_relations import AttentionRelations
from distilcli.losses.embeddings import Embeddings
from distilcli.losses.hidden_cosine import HiddenCosine
from distilcli.losses.hidden_states import HiddenStates
from distilcli.losses.inside import InnerTerm
from distilcli.losses.jensen_shannon import JensenShannon
from distilcli.losses.labels import Labels
from distilcli.losses.listwise import Listwise
from distilcli.losses.logit_mse import LogitMSE
from distilcli.losses.margin_mse import MarginMSE
from distilcli.losses.masked_lm import MaskedLM
from distilcli.losses.reverse_kl import ReverseKL
from distilcli.losses.similarities import Similarities
from distilcli.losses.soft_targets import SoftTargets
from distilcli.losses.terms import LossSettings, Term
from distilcli.losses.vector_cosine import VectorCosine
from distilcli.losses.vector_mse import VectorMSE

MASKED_LM_TERMS: tuple[type[Term], ...] = (
    SoftTargets,
    ReverseKL,
    JensenShannon,
    LogitMSE,
    MaskedLM,
    HiddenCosine,
    HiddenStates,
    Embeddings,
    AttentionRelations,
    AttentionDistributions,
)
TASK_TERMS: tuple[type[Term], ...] = (
    SoftTargets,
    ReverseKL,
    JensenShannon,
    MarginMSE,
    Listwise,
    Labels,
    HiddenCosine,
    HiddenStates,
    Embeddings,
    AttentionRelations,
    AttentionDistributions,
)

EMBEDDING_TERMS: tuple[type[Term], ...] = (VectorCosine, VectorMSE, Similarities)


def hidden_terms(table: Sequence[type[Term]], weights: Mapping[str, float]) -> list[str]:
    """Names of the wanted terms that compare last hidden states."""
    return [term.name for term in table if term.on_hidden and weights[term.name]]


def inner_terms(table: Sequence[type[Term]], weights: Mapping[str, float]) -> list[str]:
    """Names of the wanted terms that look inside the models."""
    return [term.name for term in table if issubclass(term, InnerTerm) and weights[term.name]]


def wanted_terms(
    table: Sequence[type[Term]],
    loss: LossSettings,
    has_teacher: bool,
) -> list[Term]:
    """The terms of a table that a run computes.

    Args:
        table: `MASKED_LM_TERMS`, `TASK_TERMS` or `EMBEDDING_TERMS`.
        loss: weights and temperatures; a term whose weight is 0 in every step is not computed.
        has_teacher: without one, terms that need a teacher are left out.

    Raises:
        ValueError: temperature is not positive.
    """
    return [
        term(
            loss.terms[term.name].weight,
            loss.temperatures[term.name],
            **loss.terms[term.name].settings,
        )
        for term in table
        if loss.weights[term.name] and (has_teacher or not term.needs_teacher)
    ]
