"""Settings of the losses, written shortly."""

from typing import Any

from distilcli.distillation.loss_modules import LossModule, LossSums


def weights(**of_terms: float) -> dict[str, Any]:
    """A section with its weight for each term that is named."""
    return {name: {"weight": weight} for name, weight in of_terms.items()}


def by_name(module: LossModule, values: Any) -> dict[str, Any]:
    """One value a term, such as counts, by the names of the terms."""
    values = values.terms if isinstance(values, LossSums) else values
    return dict(zip([term.name for term in module.terms], values, strict=True))
