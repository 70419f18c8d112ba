"""A whole experiment in small: text, a BERT that has learnt it, settings; and commands run on it.

Commands run as processes of their own, forked from a server that has imported everything already:
real processes that can be killed, without the seconds that imports take.
"""

import faulthandler
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.distributed import TCPStore
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CONSONANTS, VOWELS = "bdfgklmn", "aeiou"
WORDS = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
RARE_WORD = "zu"  # in the vocabulary, in no generated text
NUM_DOCUMENTS = 400
MAX_LENGTH = 24

# What every process of these tests runs with: the CPU, one thread, sums in one order.
ENVIRONMENT = {
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
_PRELOADED = ["forked_imports"]
_TIMEOUT_SECONDS = 900.0
SECONDS_TO_HANG = 600.0  # then a process says where it hangs, and ends
_SECONDS_FOR_THE_OTHERS = 120.0  # to end by themselves, once one of them has failed


# Text, tokenizer, teacher


def word_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece that knows WORDS, and spells what it does not know."""
    letters = "abcdefghijklmnopqrstuvwxyz."
    pieces = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters), *WORDS, RARE_WORD]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(names, SPECIALS, strict=True))
    )


def documents(number: int = NUM_DOCUMENTS, seed: int = 0) -> list[str]:
    """Lines of 3 to 40 words; those of one line begin with one consonant, which can be learnt."""
    draw = random.Random(seed)
    lines = []
    for _ in range(number):
        consonant = draw.choice(CONSONANTS)
        words = [consonant + draw.choice(VOWELS) for _ in range(draw.randint(3, 40))]
        lines.append(" ".join(words) + " .")
    return lines


def bert(hidden_size: int = 32, **changes: object) -> BertForMaskedLM:
    """A BERT of 4 layers for `word_tokenizer`, with random weights and the usual dropout."""
    shape = {
        "vocab_size": len(word_tokenizer()),
        "hidden_size": hidden_size,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
    }
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return BertForMaskedLM(BertConfig(**(shape | changes)))


def learn(model: BertForMaskedLM, lines: Sequence[str], steps: int) -> None:
    """Plain masked-LM training, until the model knows more than how frequent the words are."""
    tokenizer = word_tokenizer()
    rows = [torch.tensor(tokenizer(line)["input_ids"][:MAX_LENGTH]) for line in lines]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model.train()
        for step in range(steps):
            batch = [rows[(step * 24 + i) % len(rows)] for i in range(24)]
            ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
            chosen = (torch.rand(ids.shape) < 0.2) & (ids >= len(SPECIALS))
            logits = model(
                input_ids=ids.masked_fill(chosen, tokenizer.mask_token_id),
                attention_mask=(ids != tokenizer.pad_token_id).long(),
            ).logits
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits[chosen], ids[chosen]).backward()
            optimizer.step()
    model.eval()


def save(model: torch.nn.Module, folder: Path) -> Path:
    """A transformers folder of a model, with the tokenizer."""
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


# The experiment


@dataclass(frozen=True)
class TinyWorld:
    """What an experiment needs, on disk; nobody writes to it once it is made."""

    root: Path

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def text(self) -> Path:
        return self.root / "corpus.txt"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def config(self) -> Path:
        """The experiment file; tests lay their own output_dir and settings over it."""
        return self.root / "tiny.yaml"

    def experiment(self) -> dict[str, Any]:
        """The settings of the experiment file."""
        return {
            "name": "tiny",
            "output_dir": str(self.root / "runs"),
            # On any machine: in bf16 there is more rounding than these tests allow for.
            "teacher": {"model": str(self.teacher), "precision": "fp32"},
            "data": {
                "sources": [{"files": [str(self.text)], "documents": "line"}],
                "store": str(self.store),
                "max_length": MAX_LENGTH,
                "min_length": 4,
                "held_out_fraction": 0.1,
            },
            "loss": {
                "soft_targets": {"weight": 5.0},
                "masked_lm": {"weight": 2.0},
                "hidden_cosine": {"weight": 1.0},
            },
            "optim": {"lr": 1e-3},
            "train": {
                "precision": "fp32",
                "global_batch_size": 8,
                "tokens_per_micro_batch": 64,
                "max_steps": 24,
                "log_every": 1,
                "save_every": 4,
            },
            "validation": {"every": 6, "num_sequences": 20},
        }

    def write_config(self, path: Path, **sections: Any) -> Path:
        """An experiment file of its own, with some sections replaced."""
        path.write_text(yaml.safe_dump(self.experiment() | sections), encoding="utf-8")
        return path


def make_world(root: Path) -> TinyWorld:
    """Text, teacher and experiment file; the store is made by the first command that needs it."""
    world = TinyWorld(root)
    lines = documents()
    world.text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    teacher = bert()
    learn(teacher, lines, steps=150)
    save(teacher, world.teacher)
    world.write_config(world.config)
    finished = run("prepare", "--config", str(world.config), "--num-proc", "1")
    assert finished.code == 0, finished.stderr
    return world


# Commands


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        record: dict[str, Any] = json.loads(self.stdout)
        return record


@dataclass
class Running:
    """A command that runs in the background, as one process or as one a rank."""

    folder: Path
    processes: list[ForkServerProcess] = field(default_factory=list)
    store: TCPStore | None = None

    def wait(self) -> Finished:
        """Wait for all; the code is the first one's that fails, the output that of rank 0."""
        end = time.monotonic() + _TIMEOUT_SECONDS
        while any(process.is_alive() for process in self.processes):
            if any(process.exitcode for process in self.processes):
                end = min(end, time.monotonic() + _SECONDS_FOR_THE_OTHERS)
            if time.monotonic() > end:
                break
            multiprocessing.connection.wait([p.sentinel for p in self.processes], timeout=0.05)
            time.sleep(0.005)
        codes = [process.exitcode for process in self.processes]
        self.kill()
        errors = "".join(self._read(rank, "stderr") for rank in range(len(self.processes)))
        failed = [code for code in codes if code]
        assert failed or None not in codes, f"still running ({codes}): {errors}"
        finished = Finished(failed[0] if failed else 0, self._read(0, "stdout"), errors)
        shutil.rmtree(self.folder)
        return finished

    def kill(self) -> None:
        """SIGKILL to all."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def signal(self, number: int) -> None:
        """A signal to the first."""
        pid = self.processes[0].pid
        assert pid is not None
        os.kill(pid, number)

    def wait_until(self, condition: Callable[[], bool], pause: float = 0.001) -> bool:
        """Wait for a condition; False when the command ended before it held."""
        end = time.monotonic() + _TIMEOUT_SECONDS
        while not condition():
            if not any(process.is_alive() for process in self.processes):
                return condition()
            assert time.monotonic() < end, self._read(0, "stderr")
            if pause:
                time.sleep(pause)
        return True

    def _read(self, rank: int, stream: str) -> str:
        return (self.folder / f"{rank}.{stream}").read_text(encoding="utf-8")


def run(*arguments: str, num_processes: int = 1) -> Finished:
    """Run `distilcli ARGUMENTS` to its end."""
    return start(*arguments, num_processes=num_processes).wait()


def start(*arguments: str, num_processes: int = 1) -> Running:
    """Start `distilcli ARGUMENTS`, on several ranks as torchrun would."""
    return start_function(_main, arguments, num_processes)


def start_function(
    function: Callable[..., None], arguments: Sequence[str], num_processes: int = 1
) -> Running:
    """Call an importable function in processes of their own, on several ranks as torchrun would."""
    server = fork_server()
    folder = Path(tempfile.mkdtemp(prefix="distilcli-test-"))
    running = Running(folder)
    if num_processes > 1:
        # Listens before anyone connects and is of this process alone, as torchrun has it.
        running.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in range(num_processes):
        ranks: dict[str, str] = {}
        if running.store is not None:
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
            ranks |= {"LOCAL_WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1"}
            ranks |= {"MASTER_PORT": str(running.store.port)}
            ranks |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        streams = [str(folder / f"{rank}.{name}") for name in ("stdout", "stderr")]
        for name in streams:
            Path(name).touch()
        process = server.Process(
            target=_call, args=(function, tuple(arguments), ranks, streams), daemon=True
        )
        process.start()
        running.processes.append(process)
    return running


def fork_server() -> ForkServerContext:
    """What processes are forked from; it starts with the first of them."""
    server = multiprocessing.get_context("forkserver")
    _let_import(str(Path(__file__).parent))
    server.set_forkserver_preload(_PRELOADED)
    return server


def _let_import(folder: str) -> None:
    """Let the server, which has a path of its own, import from the folder of these tests."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in before:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, before), folder])


def _call(
    function: Callable[..., None], arguments: tuple[str, ...], ranks: dict[str, str], streams: list
) -> None:
    for descriptor, name in zip((1, 2), streams, strict=True):
        file = os.open(name, os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    faulthandler.dump_traceback_later(SECONDS_TO_HANG, exit=True)
    multiprocessing.current_process()._config["daemon"] = False  # prepare has workers of its own
    os.environ.update(ENVIRONMENT | ranks)
    torch.set_num_threads(1)
    function(*arguments)


def _main(*arguments: str) -> None:
    from distilcli.cli.app import main

    sys.argv = ["distilcli", *arguments]
    main()


def environment() -> dict[str, str]:
    """For processes that are started in the ordinary way."""
    return os.environ | ENVIRONMENT


# What a run left behind


def listing(folder: Path, without: str = "") -> dict[str, int]:
    """Every path under a folder with its time of change, without the files of one name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.name != without)
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The records of a run, without what depends on the clock."""
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in record.items() if key != "speed/tokens_per_second"}
        for record in records
    ]


def last_step(run_folder: Path) -> int:
    """How far the records of a run in progress go; 0 before the first."""
    path = run_folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def weights(run_folder: Path) -> dict[str, bytes]:
    """The bytes of the trained student and of every tensor file of the newest checkpoint."""
    newest = max((run_folder / "checkpoints").glob("step-*"))
    files = [run_folder / "student" / "model.safetensors", *sorted(newest.glob("*.safetensors"))]
    return {str(path.relative_to(run_folder)): path.read_bytes() for path in files}


def relative_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference over norm, over all tensors together, in float64."""
    assert found.keys() == expected.keys()
    difference = sum((found[k].double() - expected[k].double()).square().sum() for k in expected)
    norm = sum(tensor.double().square().sum() for tensor in expected.values())
    return float((difference / norm) ** 0.5)
