"""The line that a run says of a step."""

from types import SimpleNamespace
from typing import Any

from distilcli.cli.training_log import TrainingLog


def test_every_loss_of_a_record_is_said_whatever_it_is_called():
    lines: list[str] = []
    bar: Any = SimpleNamespace(update=lambda *_: None)
    console: Any = SimpleNamespace(note=lines.append)
    record = {
        "step": 3,
        "epoch": 0,
        "loss/total": 1.5,
        "loss/kl": 0.25,
        "loss/some_new_one": 0.125,
        "optim/lr": 1e-4,
        "optim/grad_norm": 2.0,
        "speed/tokens_per_second": 1000.0,
        "held_out/loss": 2.0,
        "held_out/kl": 3.0,
        "held_out/macro_f1": 0.5,
    }
    TrainingLog(console, bar).metrics(record, 10)
    assert lines == [
        "step 3/10  loss 1.5000  kl 0.2500  some new one 0.1250  held-out 2.0000  "
        "macro_f1 0.5000  lr 1.00e-04  1,000 tokens/s"
    ]
