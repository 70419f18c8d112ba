"""A whole experiment in small for a family: a teacher with the tokenizer such models have."""

from pathlib import Path
from typing import Any

import torch
import yaml
from family_tokenizers import AWKWARD, tokenizer_of
from tiny_experiments import MAX_LENGTH, TinyWorld, documents, run
from tiny_families import tiny_config, with_weights

from distilcli.models.families import FAMILIES

NUM_LAYERS = 4
NUM_POSITIONS = 2 * MAX_LENGTH  # for tokens
STEPS = 20
_SPECIALS = ("pad_token", "cls_token", "sep_token", "bos_token", "eos_token")


def save_model(model_type: str, folder: Path, *, untrained: bool = False) -> Path:
    """A masked-LM model with random weights, whose configuration knows its special tokens.

    Args:
        model_type: of its family.
        folder: to write.
        untrained: with the weights that training begins with, near zero; else every weight counts,
            and its predictions are worth learning.
    """
    family, tokenizer = FAMILIES[model_type], tokenizer_of(model_type)
    names = family.settings
    changes: dict[str, Any] = {"vocab_size": len(tokenizer)}
    changes |= {names.hidden_size: 32, names.inner_size: 48}
    known = family.config_class().to_dict()
    for name in _SPECIALS:
        if f"{name}_id" in known and getattr(tokenizer, name) is not None:
            changes[f"{name}_id"] = getattr(tokenizer, f"{name}_id")
    config = tiny_config(family, NUM_POSITIONS, NUM_LAYERS, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        made = family.masked_lm(config) if untrained else with_weights(family.masked_lm, config)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def corpus() -> list[str]:
    """Lines that can be learnt, and the awkward ones."""
    return [*documents(), *AWKWARD]


def write_family_world(model_type: str, root: Path) -> TinyWorld:
    """Text, teacher and experiment file of `STEPS` steps; there is no store yet."""
    world = TinyWorld(root)
    world.text.write_text("".join(f"{line}\n" for line in corpus()), encoding="utf-8", newline="")
    save_model(model_type, world.teacher)
    sections = world.experiment()
    sections["train"] |= {"max_steps": STEPS}
    sections["optim"] |= {"lr": 3e-3}
    sections["data"] |= {"min_length": 3}  # nothing is dropped
    world.config.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return world


def told(*arguments: str) -> dict[str, Any]:
    """A command that must succeed; what it says."""
    finished = run(*arguments, "--json")
    assert finished.code == 0, finished.stderr
    return finished.json
