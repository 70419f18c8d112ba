"""What the losses of the vocabulary cost in memory: the fused head beside full logits.

    python scripts/benchmarks/loss_memory.py [--tokens 16384] [--json]

One micro-batch with the hidden size and the vocabulary of BERT-base, forward and backward, each
way in a process of its own. The figure is the peak of resident memory above what the process held
before: inputs and weights are not in it, gradients are. About two minutes on 2 cores; full logits
of 16,384 tokens take some 10 GiB.
"""

import argparse
import json
import multiprocessing
import resource
from collections.abc import Sequence

HIDDEN, VOCABULARY = 768, 30522
MASKED_SHARE = 0.15


def peak_gib(way: str, tokens: int) -> float:
    """Peak of resident memory of one forward and backward pass."""
    import torch

    from distilcli.losses.fused_head import fused_vocabulary_losses
    from distilcli.losses.masked_lm import MaskedLM, masked_lm_cross_entropy
    from distilcli.losses.projections import Projection
    from distilcli.losses.soft_targets import SoftTargets, soft_target_kl

    torch.manual_seed(0)

    def projection(grad: bool) -> Projection:
        shapes = ((tokens, HIDDEN), (VOCABULARY, HIDDEN), (VOCABULARY,))
        return Projection(*(torch.randn(s).mul_(0.02).requires_grad_(grad) for s in shapes))

    student, teacher = projection(grad=True), projection(grad=False)
    labels = torch.randint(VOCABULARY, (round(MASKED_SHARE * tokens),))
    ce, mlm = torch.tensor(5.0 / tokens), torch.tensor(2.0 / len(labels))
    small = torch.ones(64, 64, requires_grad=True)
    (small @ small).sum().backward()  # what PyTorch sets up once is not the losses'
    before = _peak_gib()
    if way == "fused":
        terms = [SoftTargets(weight=5.0, temperature=2.0), MaskedLM(weight=2.0, temperature=2.0)]
        total = fused_vocabulary_losses(student, teacher, labels, terms, [ce, mlm]).total
    else:
        logits = student.features @ student.weight.T + student.bias
        with torch.no_grad():
            targets = teacher.features @ teacher.weight.T + teacher.bias
        total = ce * soft_target_kl(logits, targets, 2.0)
        total = total + mlm * masked_lm_cross_entropy(logits[: len(labels)], labels)
    total.backward()
    return _peak_gib() - before


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each way and print the peaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    found = {}
    for way in ("fused", "full logits"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[way] = pool.apply(peak_gib, (way, options.tokens))
    if options.json:
        print(json.dumps({"tokens": options.tokens, "peak_gib": found}))
        return
    for way, gib in found.items():
        print(f"{way}: {gib:.2f} GiB for {options.tokens:,} tokens")


if __name__ == "__main__":
    main()
