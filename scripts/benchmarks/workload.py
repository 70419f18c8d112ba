"""What `bench.py` and `scaling.py` work on: models of given shapes, text, an experiment."""

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / "distilcli" / "builtin" / "text.jsonl.gz"
TOKENIZER = "builtin:teacher"

# Shapes of BERT-base and of a BERT in which overhead weighs more than arithmetic.
SHAPES: dict[str, dict[str, Any]] = {
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
    | {"intermediate_size": 3072, "vocab_size": 30522},
    "small": {"num_hidden_layers": 12, "hidden_size": 256, "num_attention_heads": 4}
    | {"intermediate_size": 1024, "vocab_size": 8192},
}


@dataclass(frozen=True)
class Task:
    """What all contestants of one table do.

    Attributes:
        size: key of SHAPES, or the folder of a teacher.
        teacher: folder of the teacher.
        text: file with a document a line.
        folder: where stores and runs may be written.
        device: cpu or cuda.
        threads: of each contestant, on a CPU.
        sequences: in an optimiser step.
        max_length: tokens of a sequence at most.
        micro_batch: tokens; the padded ones take as many sequences as that holds at full length.
        dropout: of the student, in layers and in attention.
        rounds: timed steps of each contestant.
        compile: whether distilcli compiles its layers and losses.
        warm_up: steps before the timed ones.
        documents: of the text: line or file, see `data.sources`.
    """

    size: str
    teacher: str
    text: str
    folder: str
    device: str
    threads: int
    sequences: int
    max_length: int
    micro_batch: int
    dropout: float
    rounds: int
    compile: bool
    warm_up: int = 1
    documents: str = "line"

    def experiment(self, name: str) -> dict[str, Any]:
        """The experiment file of a contestant."""
        return {
            "name": name,
            "output_dir": f"{self.folder}/runs",
            "teacher": {"model": self.teacher},
            "student": {"dropout": self.dropout, "attention_dropout": self.dropout},
            "data": {
                "sources": [{"files": self.text, "format": "text", "documents": self.documents}],
                "store": f"{self.folder}/store-{Path(self.teacher).name}",
                "max_length": self.max_length,
                "held_out_fraction": 0.0,
            },
            "loss": {"positions": "masked" if name == "masked" else "all"},
            "train": {
                "global_batch_size": self.sequences,
                "tokens_per_micro_batch": self.micro_batch,
                "max_steps": self.rounds + self.warm_up,
                "compile": self.compile and name in ("all", "masked"),
            },
        }


def write_text(folder: Path, source: str | None, num_lines: int) -> str:
    """A file with a document a line: `source`, or the paragraphs of the built-in text."""
    if source is not None:
        return source
    target = folder / "text.txt"
    with gzip.open(TEXT, "rt", encoding="utf-8") as file, target.open("w", encoding="utf-8") as out:
        written = 0
        for line in file:
            for paragraph in json.loads(line)["text"].split("\n"):
                if len(paragraph.split()) >= 20 and written < num_lines:
                    out.write(paragraph.strip() + "\n")
                    written += 1
    return str(target)


def write_whole_text(folder: Path) -> str:
    """The built-in text as one document, whose sequences are all, but for the last, full."""
    target = folder / "whole.txt"
    with gzip.open(TEXT, "rt", encoding="utf-8") as file, target.open("w", encoding="utf-8") as out:
        for line in file:
            out.write(json.loads(line)["text"].strip() + "\n")
    return str(target)


def write_teacher(folder: Path, size: str, max_length: int) -> str:
    """A BERT of that shape with random weights, which cost as much as trained ones."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from distilcli.models.saving import save_model
    from distilcli.text.tokenizers import load_tokenizer

    torch.manual_seed(0)
    config = BertConfig(**SHAPES[size], max_position_embeddings=max(512, max_length))
    save_model(BertForMaskedLM(config), load_tokenizer(TOKENIZER), folder / size)
    return str(folder / size)


def machine(device: str) -> dict[str, Any]:
    """The hardware and PyTorch that the figures are of."""
    import torch

    name = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
    if device == "cuda":
        name = torch.cuda.get_device_name()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
