"""Nothing outside `models/families/` says a word of one architecture: a new one is a file there."""

import ast
from collections.abc import Iterator
from dataclasses import astuple
from functools import cache
from pathlib import Path

import pytest

from distilcli.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "distilcli"
OUTSIDE = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if PACKAGE / "models" / "families" not in path.parents
]

# Names in one family's configuration that are ordinary words, or settings of this package, too.
ORDINARY = {
    "activation",
    "attention_dropout",
    "dim",
    "dropout",
    "intermediate_size",
    "type_vocab_size",
}
# What is allowed: a file, and what names and strings there may hold.
ALLOWED = {
    # Parts of a tokenizer, in the words of the `tokenizers` library; any model's may have them.
    "corpus/word_cache.py": {"BertPreTokenizer", "BertNormalizer"},
    "text/tokenizers.py": {"BertPreTokenizer"},
    "text/pieces.py": {"BertPreTokenizer", "BertNormalizer"},
    # Figures of a paper (Sanh et al. 2019), and the two models that it is about.
    "config/data.py": {"The DistilBERT release used 0.7."},
    # What a user asks for by name.
    "config/models.py": {"distilbert", "a DistilBERT"},
    "cli/run_commands.py": {"auto, distilbert or same"},
    "suites/published.py": {"bert", "distilbert"},
    "report/published.py": {"BERT-base", "BERT-large", "DistilBERT"},
    # The name that a file has in every folder of sentence-transformers, whatever its model is.
    "models/sentence_encoders.py": {"sentence_bert_config.json"},
    "suites/results.py": {"bert", "distilbert"},
    "cli/suite.py": {
        "bert",
        "distilbert",
        "BERT-base / DistilBERT on the whole data (Sanh et al. 2019)",
        "DistilBERT with task distillation",
    },
}


def words(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, text and whether it is a string, of every name and string; docstrings are prose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in prose:
                yield line, node.value, True
        elif isinstance(node, ast.alias):
            yield line, node.name, False
            yield line, node.asname or "", False
        elif isinstance(node, ast.ImportFrom):
            yield line, node.module or "", False
        else:
            for field in ("id", "attr", "arg", "name"):
                value = getattr(node, field, None)
                if isinstance(value, str):
                    yield line, value, False


@cache
def paths_of(model_type: str) -> set[str]:
    """The paths of a family's modules, of which no part is an ordinary word by itself."""
    family = FAMILIES[model_type]
    head = family.vocabulary_head
    embeddings = filter(None, astuple(family.embeddings))
    paths = {*family.layer.roles.values(), *embeddings, family.layers}
    paths |= {head.transform, head.norm, head.decoder, *head.biases}
    if family.pooler is not None:
        paths.add(f".{family.pooler}.")
    return {path for path in paths if "." in path or "_" in path}


@cache
def settings_of_some() -> set[str]:
    """Settings that not every family's configuration has, by that name or as a synonym."""
    all_settings = [family.settings for family in FAMILIES.values()]
    names = {name for one in all_settings for name in (*one.names.values(), *one.more_dropouts)}
    configs = [family.config_class() for family in FAMILIES.values()]
    return {name for name in names if not all(hasattr(config, name) for config in configs)}


@cache
def what_is_of_a_family(text: str, is_string: bool) -> str | None:
    """What in a name or a string only one architecture has; None where there is nothing."""
    for family in FAMILIES.values():
        if family.model_type in text.lower():
            return family.name
        if is_string and any(path in text for path in paths_of(family.model_type)):
            return f"a module of a {family.name}"
        if text in {
            part for path in paths_of(family.model_type) for part in path.split(".") if "_" in part
        }:
            return f"a module of a {family.name}"
    return "a setting" if text in settings_of_some() - ORDINARY else None


def without(allowed: set[str], text: str) -> str:
    """A text without what is allowed in it, longest first: one may be part of another."""
    for piece in sorted(allowed, key=len, reverse=True):
        text = text.replace(piece, "")
    return text


def test_files_outside_know_no_family() -> None:
    found = []
    for path in OUTSIDE:
        name = str(path.relative_to(PACKAGE))
        allowed = ALLOWED.get(name, set())
        found += [
            f"{name}:{line}: {text!r} is {what}"
            for line, text, is_string in words(path)
            if (what := what_is_of_a_family(without(allowed, text), is_string))
        ]
    assert not found, "\n".join(found)


def test_what_is_allowed_is_there() -> None:
    """An allowance that nothing needs any more would hide the next mistake."""
    for name, allowed in ALLOWED.items():
        found = [text for _, text, _ in words(PACKAGE / name)]
        for piece in allowed:
            assert any(piece in text for text in found), f"{name}: {piece}"


@pytest.mark.parametrize(
    "source",
    [
        "from transformers import BertForMaskedLM",
        "import transformers.models.distilbert.modeling_distilbert as code",
        "def is_bert(model): return True",
        "kind = 'distilbert' if model else 'bert'",
        "size = model.config.hidden_dim",
        "rate = getattr(config, 'attention_probs_dropout_prob')",
        "weight = weights['transformer.layer.0.ffn.lin1.weight']",
        "layers = body.get_submodule('encoder.layer')",
        "head = model.vocab_projector",
        "is_of_head = '.pooler.' in name",
    ],
)
def test_the_reading_would_notice(tmp_path: Path, source: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(f'"""A BERT in prose is nothing to complain of."""\n{source}\n')
    assert any(what_is_of_a_family(text, is_string) for _, text, is_string in words(path))


def test_ordinary_code_is_not_complained_of(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""Of a BERT."""\nx = model.config.hidden_size + y.sum(dim=0)\nz = "layer 0"\n'
    )
    found = [text for _, text, is_string in words(path) if what_is_of_a_family(text, is_string)]
    assert found == []
