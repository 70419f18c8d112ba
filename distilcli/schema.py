"""What settings are made of: numbers with bounds, sections that refuse unknown keys, paths.

Relative paths are relative to the working directory; `builtin:NAME` names a file or folder that
ships inside the package.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt

BUILTIN_PREFIX = "builtin:"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


# Lax: PyYAML reads 3e-4 as a string. But true is no 1.0.
Number = Annotated[float, BeforeValidator(_refuse_bool)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Positive = Annotated[Number, Field(gt=0.0, allow_inf_nan=False)]
BelowOne = Annotated[Number, Field(ge=0.0, lt=1.0)]
Weight = Annotated[Number, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[StrictInt, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=0)]
Precision = Literal["auto", "fp32", "bf16"]


def resolve_path(name: str) -> str:
    """The path that `name` stands for: `builtin:X` is X in the package, the rest is itself."""
    if name.startswith(BUILTIN_PREFIX):
        return str(BUILTIN_FOLDER / name.removeprefix(BUILTIN_PREFIX))
    return name


class Section(BaseModel):
    """Base of every part of the tree: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
