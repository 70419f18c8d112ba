"""What all tests share: shapes checked while they run, a fixed seed, tiny models.

The import hook must be in place before `distilcli` is imported, so it stands here. What it covers
cannot be compiled: a test of `torch.compile` runs in a process of its own.
"""

import gc
import os
import signal
from collections.abc import Callable, Iterator

import jaxtyping

SHAPES_CHECKED = {
    "batches": ("masked", "masking", "packing", "plan"),
    "models": ("checks", "copying", "families", "layers", "loading", "students"),
}
jaxtyping.install_import_hook(
    ["distilcli.losses"]
    + [f"distilcli.{folder}.{name}" for folder, names in SHAPES_CHECKED.items() for name in names],
    "beartype.beartype",
)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A made-up name of a model is not looked up: where there is no network, that takes half a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads of OpenMP that wait would spin, and take the core from what they wait for: more tests than
# one run at a time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A suite under nohup ignores SIGHUP, one in the background of a script SIGINT; what it starts would
# ignore them, too.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
import tiny_experiments  # noqa: E402
import token_stores  # noqa: E402
import torch  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from hypothesis import settings  # noqa: E402
from transformers import (  # noqa: E402
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
)

torch.set_num_threads(1)  # small tensors, and sums in one order
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")

TinyBert = Callable[..., BertForMaskedLM]


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no later collection looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    if torch.cuda.is_initialized():
        torch.manual_seed(0)
    else:  # the same, without a note for CUDA of who asked, which takes longer than many a test
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_launch_stays() -> Iterator[None]:
    """accelerate writes into the environment what it was launched as; the next test is not."""
    before = os.environ.copy()
    yield
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        if name not in before:
            os.environ.pop(name, None)


@pytest.fixture
def fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command has a process of its own; here each gets an accelerator of its own."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over ten letters: 27 ids, the first five special."""
    return token_stores.tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_bert(tiny_tokenizer: PreTrainedTokenizerFast) -> TinyBert:
    """Makes BERTs whose every weight, biases and norms included, is well away from its default."""

    def make(num_layers: int = 4, seed: int = 0, **changes: object) -> BertForMaskedLM:
        shape = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 16,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "max_position_embeddings": 64,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = BertForMaskedLM(BertConfig(num_hidden_layers=num_layers, **(shape | changes)))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> tiny_experiments.TinyWorld:
    """Text, a teacher that has learnt it, its token store and an experiment file."""
    return tiny_experiments.make_world(tmp_path_factory.mktemp("world"))
