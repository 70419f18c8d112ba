"""Settings of the losses, written shortly."""

from collections.abc import Sequence
from typing import Any

from distilcli.distillation.loss_modules import LossModule, LossSums
from distilcli.losses.inside import InnerTerm
from distilcli.losses.terms import Term


def weights(**of_terms: float) -> dict[str, Any]:
    """A section with its weight for each term that is named."""
    return {name: {"weight": weight} for name, weight in of_terms.items()}


def inside(table: Sequence[type[Term]]) -> set[str]:
    """Names of the terms of a table that look inside the models."""
    return {term.name for term in table if issubclass(term, InnerTerm)}


def by_name(module: LossModule, values: Any) -> dict[str, Any]:
    """One value a term, such as counts, by the names of the terms."""
    values = values.terms if isinstance(values, LossSums) else values
    return dict(zip([term.name for term in module.terms], values, strict=True))
