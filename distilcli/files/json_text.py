"""JSON as the standard has it: no NaN, no infinity; and read without surprises.

Python writes `NaN` and `Infinity`, which `jq`, JavaScript and most other readers refuse. Whatever
this package writes as JSON goes through `to_json`.
"""

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON text of a value; a number that JSON has no word for is undefined, and becomes null.

    Runs stop at a loss or score that is not finite before they come here; what remains are
    figures such as a perplexity that overflows.

    Args:
        value: of dictionaries, lists, tuples, texts, numbers, bools and None.
        indent: spaces a level; None: all on one line.
        sort_keys: keys in alphabetical order, whatever the order they were given in.
    """
    try:
        return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError:  # rare, so that the usual case is not copied first
        defined = _defined(value)
        return json.dumps(defined, indent=indent, sort_keys=sort_keys, allow_nan=False)


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_encodable(value: Any) -> None:
    """Refuse a value with half a surrogate pair in it, which no file in UTF-8 can hold.

    Raises:
        ValueError: there is one.
    """
    json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: it is no JSON, not UTF-8, or nested more deeply than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
