"""Embeddings in small: a tiny sentence encoder as sentence-transformers keeps it, texts, tests."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tiny_experiments import CONSONANTS, VOWELS, bert, word_tokenizer
from transformers import BertForMaskedLM

MAX_LENGTH = 20
NUM_TEXTS, NUM_PAIRS = 96, 40
PACKAGE = "sentence_transformers.models"


def write_sentence_files(
    folder: Path,
    pooling: dict[str, Any] | None = None,
    *,
    normalizes: bool = True,
    length: dict[str, Any] | None = None,
    prompts: dict[str, Any] | None = None,
    more: tuple[str, ...] = (),
) -> None:
    """Make the folder of a model one of sentence-transformers, by hand."""
    kinds = ["Transformer", "Pooling", *more, *(["Normalize"] if normalizes else [])]
    paths = ["", "1_Pooling", *(f"{i}_{kind}" for i, kind in enumerate(kinds[2:], start=2))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{PACKAGE}.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    trees = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling or {"pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": length or {"max_seq_length": MAX_LENGTH},
        "config_sentence_transformers.json": prompts or {},
    }
    for name, tree in trees.items():
        (folder / name).write_text(json.dumps(tree), encoding="utf-8")


def encoder() -> BertForMaskedLM:
    """A BERT without dropout whose random weights are so large that texts differ."""
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(12)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def text(draw: random.Random, consonant: str) -> str:
    """Words that begin with one consonant."""
    return " ".join(consonant + draw.choice(VOWELS) for _ in range(draw.randint(2, 12)))


@dataclass(frozen=True)
class TinyEmbeddings:
    """A teacher and data, on disk; nobody writes to it once it is made."""

    root: Path

    @property
    def teacher(self) -> Path:
        """A BERT of 4 layers with random weights, which pools means of length 1."""
        return self.root / "encoder"

    def task(self) -> dict[str, Any]:
        """The section `task` of an experiment that is measured on pairs."""
        return {
            "kind": "embedding",
            "train": {"files": [str(self.root / "texts.txt")]},
            "dev": {"files": [str(self.root / "pairs.tsv")]},
            "group_size": 8,
        }

    def retrieval(self) -> dict[str, Any]:
        """The section `task.retrieval`."""
        names = ("corpus", "queries", "relevant")
        return {name: {"files": [str(self.root / f"{name}.jsonl")]} for name in names}

    def experiment(self, **sections: Any) -> dict[str, Any]:
        """Half the layers, on texts."""
        return {
            "name": "vectors",
            "output_dir": str(self.root / "runs"),
            "task": self.task(),
            "teacher": {
                "model": str(self.teacher),
                "precision": "fp32",
                "cache": str(self.root / "cache"),
            },
            "student": {"num_layers": 2},
            "optim": {"lr": 1e-3},
            "train": {
                "precision": "fp32",
                "global_batch_size": 32,
                "tokens_per_micro_batch": 256,
                "max_steps": 12,
                "save_every": 4,
                "log_every": 1,
            },
            "validation": {"every": 6},
        } | sections

    def write_config(self, path: Path, **sections: Any) -> Path:
        """An experiment file."""
        path.write_text(yaml.safe_dump(self.experiment(**sections)), encoding="utf-8")
        return path


def make_embeddings(root: Path) -> TinyEmbeddings:
    """Write everything."""
    world = TinyEmbeddings(root)
    encoder().save_pretrained(world.teacher)
    word_tokenizer().save_pretrained(world.teacher)
    write_sentence_files(world.teacher)
    draw = random.Random(4)
    texts = [text(draw, CONSONANTS[i % len(CONSONANTS)]) for i in range(NUM_TEXTS)]
    (root / "texts.txt").write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    _write_pairs(root, draw)
    _write_retrieval(root, draw)
    return world


def _write_pairs(root: Path, draw: random.Random) -> None:
    """Pairs of texts: alike where both are of one consonant."""
    lines = ["sentence1\tsentence2\tscore"]
    for index in range(NUM_PAIRS):
        one = draw.choice(CONSONANTS)
        other = one if index % 2 else draw.choice(CONSONANTS.replace(one, ""))
        lines.append(f"{text(draw, one)}\t{text(draw, other)}\t{4.5 if index % 2 else 0.5}")
    (root / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_retrieval(root: Path, draw: random.Random) -> None:
    """Documents of each consonant; a query should find those of its own."""
    corpus = [{"_id": f"d{i}", "text": text(draw, CONSONANTS[i % 8])} for i in range(24)]
    queries = [{"_id": i, "text": text(draw, CONSONANTS[i])} for i in range(4)]
    relevant = [
        {"query-id": q, "corpus-id": f"d{d}", "score": int(d % 8 == q)}
        for q in range(3)  # nothing is relevant to the fourth
        for d in range(24)
    ]
    for name, rows in (("corpus", corpus), ("queries", queries), ("relevant", relevant)):
        path = root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
