"""What a distillation step must cost: FLOPs and bytes a token, and the speed that peaks allow.

    python reckoning.py                      # BERT-base to 6 layers, on an H100
    python reckoning.py --tflops 989 --tbytes 4.8  # an H200
    python reckoning.py --layers 12 6 --hidden 256 --inner 1024 --vocab 8192

Counted are the matrix products that no step can do without (no padding, no unused logits), and the
bytes that element-wise work between them must move where it is fused into one pass: what a product
itself reads and writes is hidden behind its arithmetic. The table gives the speed at the peaks and
at the shares of them that people reach, so that a measured figure can stand beside it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

# Of an H100 (SXM): dense bf16, and its memory. An H200 has the same arithmetic and 4.8 TB/s.
H100_TFLOPS = 989.0
H100_TBYTES = 3.35
SHARES = (0.25, 0.35, 0.45)

# Bytes of one logit that the losses move between the products, of student and teacher in bf16: both
# are read for the log-sums, both once more for the gradient, which is written.
LOGIT_BYTES = 2 * 2 + 2 * 2 + 2
# Numbers of the hidden size that go through memory between the products of a layer, per token: two
# sums of branch and residual with their norms (each read twice, written once) and the activation
# (read and written, of the inner size) forward; twice that backward.
NORM_PASSES = 2 * 3
ACTIVATION_PASSES = 2
# bf16 for what products read, fp32 for the sums that residuals are kept in: between both.
HIDDEN_BYTES = 3


@dataclass(frozen=True)
class Shape:
    """What of an encoder's configuration its arithmetic depends on."""

    layers: int
    hidden: int
    inner: int
    vocab_size: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Of a BERT's or a DistilBERT's configuration."""
        inner = getattr(config, "intermediate_size", None) or config.hidden_dim
        return cls(config.num_hidden_layers, config.hidden_size, inner, config.vocab_size)


def token_flop(shape: Shape, length: int, share: float) -> float:
    """FLOPs of the matrix products of a forward pass, of one token.

    Args:
        shape: of the model.
        length: of the sequence that it stands in.
        share: of the positions, how many need logits.
    """
    layer = 2 * shape.hidden * (4 * shape.hidden + 2 * shape.inner)
    attention = 4 * shape.hidden * length
    head = share * 2 * shape.hidden * (shape.hidden + shape.vocab_size)
    return shape.layers * (layer + attention) + head


def step_gflop(teacher: Shape, student: Shape, lengths: Sequence[int], share: float) -> float:
    """GFLOP of the matrix products of a step: no padding, no unused logits.

    A backward pass is two products for each one of the forward pass.

    Args:
        teacher: runs forward.
        student: runs forward and backward.
        lengths: tokens of the step's sequences.
        share: of the positions, how many need logits.
    """
    total = 0.0
    for shape, passes in ((teacher, 1), (student, 3)):
        for length in lengths:
            total += passes * token_flop(shape, length, share) * length
    return total / 1e9


def token_bytes(teacher: Shape, student: Shape, share: float) -> float:
    """Bytes that element-wise work moves for one token, fused into one pass between products."""
    total = share * student.vocab_size * LOGIT_BYTES
    for shape, passes in ((teacher, 1), (student, 3)):
        numbers = NORM_PASSES * shape.hidden + ACTIVATION_PASSES * shape.inner
        total += passes * shape.layers * numbers * HIDDEN_BYTES
    return total


def table(
    teacher: Shape, student: Shape, lengths: Sequence[int], tflops: float, tbytes: float
) -> str:
    """Floor and targets in Markdown: thousands of tokens a second."""
    titles = ["positions", "tokens", "GFLOP a token", "MB a token", "floor, k tokens/s"]
    titles += [f"{share:.0%} of the peak" for share in SHARES]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, share in (("all", 1.0), ("masked", 0.15)):
        for length in lengths:
            gflop = step_gflop(teacher, student, [length], share) / length
            moved = token_bytes(teacher, student, share)
            seconds = gflop * 1e9 / (tflops * 1e12) + moved / (tbytes * 1e12)
            cells = [name, str(length), f"{gflop:.3f}", f"{moved / 1e6:.2f}"]
            cells += [f"{1e-3 / seconds:,.0f}"]
            cells += [f"{tflops * of_peak / gflop:,.0f}" for of_peak in SHARES]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs=2, default=[12, 6], help="teacher, student")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--inner", type=int, default=3072)
    parser.add_argument("--vocab", type=int, default=30522)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tflops", type=float, default=H100_TFLOPS, help="peak of arithmetic")
    parser.add_argument("--tbytes", type=float, default=H100_TBYTES, help="peak of memory")
    options = parser.parse_args(arguments)
    teacher = Shape(options.layers[0], options.hidden, options.inner, options.vocab)
    student = replace(teacher, layers=options.layers[1])
    print(table(teacher, student, options.lengths, options.tflops, options.tbytes))


if __name__ == "__main__":
    main()
