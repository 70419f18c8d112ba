"""Scripts that measure memory and speed: their one object has what they promise."""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tiny_experiments import fork_server

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"))

import attention_ways
import bench_prepare
import loss_cost
import loss_memory
import torch

Measure = Callable[..., dict]


class Forks:
    """In place of `multiprocessing`: pools whose processes have imported everything."""

    @staticmethod
    def get_context(method: str) -> SimpleNamespace:
        assert method == "spawn"
        return SimpleNamespace(Pool=pool_of_forks)


def pool_of_forks(number: int) -> Pool:
    threshold = os.environ.get("MALLOC_MMAP_THRESHOLD_", "131072")
    return fork_server().Pool(number, set_up_memory, (int(threshold),))


def set_up_memory(threshold: int) -> None:
    """What glibc does when a process starts with MALLOC_MMAP_THRESHOLD_."""
    ctypes.CDLL(None).mallopt(-3, threshold)


@pytest.fixture
def measure(monkeypatch, capsys) -> Measure:
    """What a script prints; the processes that it has of its own are forked."""

    def call(script: ModuleType, *arguments: str) -> dict:
        if hasattr(script, "multiprocessing"):
            monkeypatch.setattr(script, "multiprocessing", Forks)
        script.main(["--json", *arguments])
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.slow
def test_losses_need_no_memory_for_full_logits(measure: Measure) -> None:
    peak = measure(loss_memory, "--tokens", "1024")["peak_gib"]
    logits = 1024 * 30522 * 4 / 2**30
    assert peak["fused"] < peak["full logits"] / 2
    assert peak["full logits"] > 3 * logits  # else it measured something else


@pytest.mark.slow
def test_what_a_loss_costs_is_measured_beside_the_default_ones(measure: Measure) -> None:
    """Without logits over the vocabulary a micro-batch needs less memory."""
    arguments = ["--size", "small", "--rounds", "1", "--micro-batch", "512"]
    found = measure(loss_cost, *arguments, "--only", "attention_relations")["losses"]
    names = ["the default losses", "+ attention_relations", "attention_relations alone"]
    assert list(found) == names
    assert len({figures["tokens"] for figures in found.values()}) == 1
    assert min(figures["microseconds_per_token"] for figures in found.values()) > 0
    default, _, alone = (figures["peak_kib_per_token"] for figures in found.values())
    assert 0 < alone < 0.8 * default


def test_attention_in_groups_is_measured_beside_the_kernel(measure: Measure) -> None:
    found = measure(attention_ways, "--lengths", "8,40", "--tokens", "80", "--rounds", "1")
    assert list(found["microseconds"]) == ["8", "40"]
    for times in found["microseconds"].values():
        assert times["train, ratio"] == times["train, kernel"] / times["train, groups"] > 0


def test_both_ways_of_attention_compute_the_same() -> None:
    ways = attention_ways.ways(length=20, count=3)
    tolerance = {"rtol": 0.02, "atol": 0.02}  # a few roundings to bf16
    torch.testing.assert_close(ways["run, groups"](), ways["run, kernel"](), **tolerance)
    pairs = zip(ways["train, groups"](), ways["train, kernel"](), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one.float(), other, **tolerance)


def test_prepare_is_measured_beside_the_release(measure: Measure, monkeypatch) -> None:
    lines = bench_prepare.paragraphs()[:300]
    monkeypatch.setattr(bench_prepare, "paragraphs", lambda: lines)
    arguments = ["--repeats", "1", "--num-proc", "1", "--rounds", "1", "--keep", "4000"]
    speeds = measure(bench_prepare, *arguments)["tokens_per_second"]
    assert len(speeds) == 4
    assert min(speeds.values()) > 0
