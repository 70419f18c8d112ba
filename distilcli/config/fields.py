"""What settings are made of: numbers with bounds, sections that refuse unknown keys, paths.

Relative paths are relative to the working directory; `builtin:NAME` names a file or folder that
ships inside the package.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt

from distilcli.files.paths import checked_path, expanded_path, output_path


def _plain_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 is 0.0, also in what is written down of the settings


def _not_too_small(value: float) -> float:
    # Below this a weight is lost in fp32: the term would be asked for and never trained on.
    if 0.0 < value < MIN_WEIGHT:
        raise ValueError(f"must be 0 or at least {MIN_WEIGHT:g}")
    return value


# Every number has an upper bound, far above what anyone needs: beyond it there is an overflow, a
# process that never ends or memory that no machine has, hours after the start.
MAX_COUNT = 2**31 - 1  # steps, sequences
MAX_TOKENS = 2**24  # of a micro-batch
MAX_LENGTH = 2**16  # tokens of a sequence
MAX_LAYERS = 1000
MAX_WIDTH = 2**16  # of hidden states, and of what is inside a layer
MAX_VOCABULARY = 2**24  # tokens
MAX_OTHER_TEACHERS = 63
MIN_WEIGHT = 1e-9
# Lax: PyYAML reads 3e-4 as a string. But true is no 1.0.
Number = Annotated[
    float,
    Field(allow_inf_nan=False),
    BeforeValidator(_plain_number),
    AfterValidator(_positive_zero),
]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[Number, Field(ge=0.0, lt=1.0)]
LearningRate = Annotated[Number, Field(ge=1e-12, le=10.0)]
Epsilon = Annotated[Number, Field(ge=1e-12, le=1.0)]
Temperature = Annotated[Number, Field(ge=0.01, le=1000.0)]
# The one that may be infinite: nothing is clipped then.
MaxNorm = Annotated[float, BeforeValidator(_plain_number), Field(ge=1e-6)]
Seconds = Annotated[Number, Field(ge=0.1, le=20 * 24 * 3600.0)]  # gloo counts ms, up to 2^31
Weight = Annotated[Number, Field(ge=0.0, le=1e6), AfterValidator(_not_too_small)]
TeacherWeight = Annotated[Number, Field(ge=1e-6, le=1e6)]  # one of 0 would run in vain
Tokens = Annotated[StrictInt, Field(gt=0, le=MAX_TOKENS)]
Length = Annotated[StrictInt, Field(ge=0, le=MAX_LENGTH)]
NumLayers = Annotated[StrictInt, Field(gt=0, le=MAX_LAYERS)]
Width = Annotated[StrictInt, Field(gt=0, le=MAX_WIDTH)]
Seed = Annotated[StrictInt, Field(ge=0, le=2**32 - 1)]  # what numpy takes
PositiveInt = Annotated[StrictInt, Field(gt=0, le=MAX_COUNT)]
Count = Annotated[StrictInt, Field(ge=0, le=MAX_COUNT)]
Precision = Literal["auto", "fp32", "bf16"]
# Of runs, and of the tasks and models of a suite; folders are called so, with a little more.
# The only pattern of a setting: `mistakes.py` says this of whatever does not match one.
NAME_RULE = "must be letters, digits, '.', '_' and '-', and begin with a letter or digit"
Name = Annotated[str, Field(max_length=180, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
OutputFolder = Annotated[str, AfterValidator(output_path)]
ModelName = Annotated[str, AfterValidator(expanded_path)]  # or a folder
InputPath = Annotated[str, AfterValidator(checked_path)]  # a glob or a hub name, too


class Section(BaseModel):
    """Base of every part of the tree: unknown keys are errors, values never change."""

    #: Keys that it once had, and what each is called now, from this section on.
    renamed: ClassVar[dict[str, str]] = {}
    #: What keys of other kinds of this section are called here.
    called: ClassVar[dict[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True)
