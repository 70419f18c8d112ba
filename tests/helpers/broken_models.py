"""Models in folders that a test damages, and how they are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from distilcli.errors import ModelError
from distilcli.models import loading


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename_weights(folder: Path, rename: Callable[[str], str]) -> None:
    weights = load_file(folder / "model.safetensors")
    renamed = {rename(name): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        loading.load_masked_lm(str(folder))
    assert caught.value.message.startswith(f"teacher {folder}: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value
