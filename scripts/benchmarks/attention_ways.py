"""Attention in groups beside PyTorch's own kernel, on a CPU that computes in bf16.

    python scripts/benchmarks/attention_ways.py [--lengths 32,96,256] [--tokens 2560] [--json]

For each length, as many sequences as a micro-batch of so many tokens holds, with the heads of
BERT-base. `run` is a forward pass without gradients, `train` forward and backward. PyTorch's kernel
runs in bf16, and trains in fp32: in bf16 it makes kernels anew for every length. Times are medians,
in microseconds a head of a sequence, on one thread; all ways of a length take turns. Two minutes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from distilcli.models.grouped_attention import Groups, grouped_attention
from distilcli.training.host_memory import settle_host_memory

NUM_HEADS, HEAD_SIZE = 12, 64
Way = Callable[[], object]


def ways(length: int, count: int) -> dict[str, Way]:
    """What is timed, for so many sequences of one length."""
    shape = (1, count * length, NUM_HEADS, HEAD_SIZE)
    torch.manual_seed(0)
    inputs = [torch.randn(shape).bfloat16().transpose(1, 2) for _ in range(3)]
    output_gradient = torch.randn(shape)
    groups = Groups.of([length] * count, NUM_HEADS)

    def in_groups(states: Sequence[Tensor]) -> Tensor:
        query, key, value = states
        return grouped_attention(query, key, value, groups, dropout=0.0, scaling=None)

    def by_kernel(states: Sequence[Tensor]) -> Tensor:
        by_sequence = (NUM_HEADS, count, length, HEAD_SIZE)
        query, key, value = (state[0].view(by_sequence).transpose(0, 1) for state in states)
        return scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(shape)

    def run(attention: Callable[[Sequence[Tensor]], Tensor]) -> Way:
        @torch.no_grad()
        def without_gradients() -> Tensor:
            return attention(inputs)

        return without_gradients

    def train(attention: Callable[[Sequence[Tensor]], Tensor], dtype: torch.dtype) -> Way:
        states = [state.to(dtype).requires_grad_() for state in inputs]
        gradient = output_gradient.to(dtype)
        return lambda: torch.autograd.grad(attention(states), states, gradient)

    return {
        "run, groups": run(in_groups),
        "run, kernel": run(by_kernel),
        "train, groups": train(in_groups, torch.bfloat16),
        "train, kernel": train(by_kernel, torch.float32),
    }


def medians(timed: dict[str, Way], rounds: int) -> dict[str, float]:
    """Seconds of each, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 1):
        for name, way in timed.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def figures(length: int, tokens: int, rounds: int) -> dict[str, float]:
    """Microseconds of each way, and how many times as fast groups are."""
    count = max(1, tokens // length)
    found = {
        name: 1e6 * taken / (count * NUM_HEADS)
        for name, taken in medians(ways(length, count), rounds).items()
    }
    for pass_ in ("run", "train"):
        found[f"{pass_}, ratio"] = found[f"{pass_}, kernel"] / found[f"{pass_}, groups"]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all lengths and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="32,64,96,128,256,512")
    parser.add_argument("--tokens", type=int, default=2560, help="of a micro-batch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settle_host_memory()
    lengths = [int(length) for length in options.lengths.split(",")]
    table = {length: figures(length, options.tokens, options.rounds) for length in lengths}
    if options.json:
        print(json.dumps({"microseconds": table, "torch": torch.__version__}))
        return
    names = list(table[lengths[0]])
    print("| tokens | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for length, of_length in table.items():
        cells = (f"{of_length[name]:.{2 if 'ratio' in name else 1}f}" for name in names)
        print(f"| {length} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
