"""Which files a tokenizer is loaded from, and what can be done about those that are not enough.

transformers makes a fast tokenizer of older files while it loads them: of vocab.txt (BERT), of
vocab.json with merges.txt (RoBERTa), and of a SentencePiece model (XLM-RoBERTa) where the package
sentencepiece is installed. Without the files of its class it makes one that knows no word. And some
tokenizers are Python code, of which no tokenizer.json can be made by itself.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distilcli.errors import ModelError
from distilcli.hub.model_files import CONFIG, TOKENIZER_CONFIG, TOKENIZER_FILES

FAST = "tokenizer.json"
# Files that say something of a tokenizer, but hold no vocabulary.
_REMARKS = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
_VOCABULARIES = tuple(name for name in TOKENIZER_FILES if name not in _REMARKS)
_TOGETHER = ("vocab.json", "merges.txt")
_ANOTHER = "Copy or download all files of its tokenizer, or name a model that has them."
_CONVERT = (
    "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{0}')"
    ".save_pretrained('{0}')"
)


def check_files(folder: Path, name: str) -> None:
    """Refuse a folder of which no tokenizer can be made.

    Args:
        folder: where the files of the model lie.
        name: of the model; opens the message.

    Raises:
        ModelError: there is no vocabulary, a part of it is missing, or it is a SentencePiece model
            that nothing here can read.
    """
    found = [file for file in _VOCABULARIES if (folder / file).is_file()]
    if FAST in found:
        return
    if not found:
        raise ModelError(
            f"{name}: it has no tokenizer (none of {FAST}, vocab.txt, vocab.json with merges.txt, "
            "or a SentencePiece model)",
            _ANOTHER,
        )
    there = [file for file in _TOGETHER if file in found]
    if len(there) == 1:
        [missing] = set(_TOGETHER) - set(there)
        raise ModelError(f"{name}: its tokenizer has {there[0]}, but no {missing}", _ANOTHER)
    lacking = [package for package in ("sentencepiece", "google.protobuf") if not _has(package)]
    if all(file.endswith(".model") for file in found) and lacking:
        command = _CONVERT.format(name)
        raise ModelError(
            f"{name}: its tokenizer is a SentencePiece model ({found[0]}), which cannot be read "
            f"without {' and '.join(lacking)}",
            "Run pip install sentencepiece protobuf, and the command again. This converts a folder "
            f'for good: python -c "{command}"',
        )


def _has(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def what_to_load(folder: Path) -> str:
    """What to do about files that could not be loaded."""
    if (folder / FAST).is_file():
        return f"Name a folder with {FAST}, or a model on the hub."
    return (
        f"Copy its {FAST}, or name in {TOKENIZER_CONFIG} the tokenizer_class that reads its files; "
        "docs/families.md (Tokenizers) says which there are."
    )


def check_vocabulary_was_read(tokenizer: Any, folder: Path, name: str) -> None:
    """Refuse a tokenizer that was made without a vocabulary, for the files are of another class.

    Raises:
        ModelError: naming the class, the files that it reads, and those that are there.
    """
    if (folder / FAST).is_file():
        return
    wanted = sorted(set(type(tokenizer).vocab_files_names.values()) - {FAST})
    if not all((folder / file).is_file() for file in wanted):
        found = [file for file in _VOCABULARIES if (folder / file).is_file()]
        raise ModelError(
            f"{name}: its tokenizer is a {type(tokenizer).__name__}, which reads "
            f"{' and '.join(wanted)}; there is {', '.join(found)}",
            f"Name the right class as tokenizer_class in {TOKENIZER_CONFIG}, or copy the files of "
            "this one; docs/families.md (Tokenizers) says which class reads what.",
        )


def check_is_no_python_code(folder: Path, name: str) -> None:
    """Refuse a tokenizer that transformers has as Python code only.

    Raises:
        ModelError: naming its class.
    """
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    class_name = _class_name(folder)
    found = tokenizer_class_from_name(class_name) if class_name else None
    if not isinstance(found, type) or not issubclass(found, PreTrainedTokenizerBase):
        return
    if not issubclass(found, PreTrainedTokenizerFast):
        raise ModelError(
            f"{name}: its tokenizer, a {class_name}, is Python code without a fast form",
            f"Save a {FAST} that gives the same tokens, and say tokenizer_class: "
            f"PreTrainedTokenizerFast in {TOKENIZER_CONFIG}. docs/families.md (A tokenizer that is "
            "Python code) has the commands.",
        )


def _class_name(folder: Path) -> str | None:
    """What the files call the class of a tokenizer, or the one of the model's type."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    for file in (TOKENIZER_CONFIG, CONFIG):
        if (folder / file).is_file():
            tree = json.loads((folder / file).read_text(encoding="utf-8"))
            if isinstance(name := tree.get("tokenizer_class"), str):
                return name
            if file == CONFIG:
                return TOKENIZER_MAPPING_NAMES.get(str(tree.get("model_type")))
    return None
