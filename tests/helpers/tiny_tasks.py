"""Tasks in small, one of each kind, on words that a tiny BERT learns in seconds.

Every word is a consonant and a vowel (`tiny_experiments.WORDS`). Texts are of words of one
consonant; the tasks ask for what can be read off them.
"""

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny_experiments import CONSONANTS, VOWELS, bert, word_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

NUM_TRAIN, NUM_DEV = 160, 60
MAX_LENGTH = 24


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """`word_tokenizer`, which also knows what a pair is."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


@dataclass(frozen=True)
class TinyTasks:
    """Data of each kind of task and a BERT, on disk; nobody writes to it once it is made."""

    root: Path

    @property
    def model(self) -> Path:
        """A BERT with random weights, without a head for any task."""
        return self.root / "bert"

    def task(self, kind: str) -> dict[str, Any]:
        """The `task` section of an experiment."""
        ending = {
            "classification": "tsv",
            "multi-label": "jsonl",
            "regression": "csv",
            "question-answering": "json",
            "tagging": "txt",
            "reranking": "jsonl",
        }[kind]
        task: dict[str, Any] = {"kind": kind, "max_length": MAX_LENGTH}
        for split in ("train", "dev"):
            task[split] = {"files": [str(self.root / kind / f"{split}.{ending}")]}
        if kind == "classification":
            task |= {"text": "first", "text_pair": "second"}
        if kind == "reranking":
            task |= {"document": "documents", "label": "labels"}
        if kind == "question-answering":
            task |= {"stride": 4, "max_question_length": 8}
        return task

    def experiment(self, kind: str, **sections: Any) -> dict[str, Any]:
        """Fine-tuning of half the BERT on a task, some sections replaced."""
        return {
            "name": kind,
            "output_dir": str(self.root / "runs"),
            "task": self.task(kind),
            "teacher": None,
            "student": {"kind": "copied", "source": str(self.model), "num_layers": 2},
            "optim": {"lr": 3e-3},
            "train": {
                "precision": "fp32",
                "global_batch_size": 16,
                "tokens_per_micro_batch": 256,
                "num_epochs": 4,
            },
        } | sections

    def write_config(self, path: Path, kind: str, **sections: Any) -> Path:
        """An experiment file."""
        path.write_text(yaml.safe_dump(self.experiment(kind, **sections)), encoding="utf-8")
        return path


def make_tasks(root: Path) -> TinyTasks:
    """Write everything."""
    tasks = TinyTasks(root)
    bert().save_pretrained(tasks.model)
    pair_tokenizer().save_pretrained(tasks.model)
    draw = random.Random(3)
    for split, number in (("train", NUM_TRAIN), ("dev", NUM_DEV)):
        for kind, write in _WRITERS.items():
            (root / kind).mkdir(exist_ok=True)
            write(root / kind / split, number, draw)
    return tasks


def words(draw: random.Random, consonant: str, number: int) -> list[str]:
    """Words that begin with one consonant."""
    return [consonant + draw.choice(VOWELS) for _ in range(number)]


def _write_classification(stem: Path, number: int, draw: random.Random) -> None:
    """Pairs of texts: whether the second one is of words in b."""
    with stem.with_suffix(".tsv").open("w", encoding="utf-8") as file:
        file.write("first\tsecond\tlabel\n")
        for index in range(number):
            consonant = "bdf"[index % 3]
            texts = (words(draw, c, draw.randint(2, 6)) for c in ("g", consonant))
            label = "yes" if consonant == "b" else "no"
            file.write("\t".join(map(" ".join, texts)) + f"\t{label}\n")


def _write_multi_label(stem: Path, number: int, draw: random.Random) -> None:
    """Texts of several consonants: which ones."""
    with stem.with_suffix(".jsonl").open("w", encoding="utf-8") as file:
        for _ in range(number):
            chosen = draw.sample(CONSONANTS[:3], draw.randint(0, 3))
            text = [word for c in (*chosen, "k") for word in words(draw, c, 2)]
            draw.shuffle(text)
            row = {"text": " ".join(text), "labels": sorted(chosen)}
            file.write(json.dumps(row) + "\n")


def _write_regression(stem: Path, number: int, draw: random.Random) -> None:
    """Texts: the share of words with the vowel a."""
    with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for _ in range(number):
            size, share = 8, draw.randint(0, 8)
            text = [draw.choice(CONSONANTS) + ("a" if i < share else "u") for i in range(size)]
            draw.shuffle(text)
            rows.writerow([" ".join(text), f"{share / size:.3f}"])


def _write_questions(stem: Path, number: int, draw: random.Random) -> None:
    """Contexts of words of all consonants: the word in b."""
    paragraphs = []
    for index in range(number):
        context = [c + draw.choice(VOWELS) for c in draw.sample(CONSONANTS, len(CONSONANTS))]
        context = context * (1 + 2 * (index % 5 == 0))  # some need several windows
        answer = next(word for word in context if word.startswith("b"))
        text = " ".join(context)
        paragraphs.append(
            {
                "context": text,
                "qas": [
                    {
                        "id": f"q{index}",
                        "question": "bo",
                        "answers": [{"text": answer, "answer_start": text.index(answer)}],
                    }
                ],
            }
        )
    tree = {"version": "1.1", "data": [{"title": "words", "paragraphs": paragraphs}]}
    stem.with_suffix(".json").write_text(json.dumps(tree), encoding="utf-8")


def _write_tags(stem: Path, number: int, draw: random.Random) -> None:
    """Sentences: entities of words in b, which go on with words in d, among others."""
    with stem.with_suffix(".txt").open("w", encoding="utf-8") as file:
        for _ in range(number):
            inside = False
            for _ in range(draw.randint(2, 30)):
                consonant = draw.choice("bdfg" if inside else "bfg")
                inside = consonant in "bd"
                tag = {"b": "B-X", "d": "I-X"}.get(consonant, "O")
                file.write(f"{consonant}{draw.choice(VOWELS)} {tag}\n")
            file.write("\n")


def _write_queries(stem: Path, number: int, draw: random.Random) -> None:
    """Queries of two words: of two to four documents the one that has more words in a."""
    draw = random.Random(number)  # of its own, so that the other tasks stay as they are
    with stem.with_suffix(".jsonl").open("w", encoding="utf-8") as file:
        for _ in range(number):
            shares = draw.sample(range(5), draw.randint(2, 4))
            documents = []
            for share in shares:
                text = [draw.choice(CONSONANTS) + "au"[i >= share] for i in range(4)]
                documents.append(" ".join(draw.sample(text, 4)))
            labels = [int(share == max(shares)) for share in shares]
            query = " ".join(words(draw, "k", 2))
            row = {"query": query, "documents": documents, "labels": labels}
            file.write(json.dumps(row) + "\n")


_WRITERS = {
    "classification": _write_classification,
    "multi-label": _write_multi_label,
    "regression": _write_regression,
    "question-answering": _write_questions,
    "tagging": _write_tags,
    "reranking": _write_queries,
}
