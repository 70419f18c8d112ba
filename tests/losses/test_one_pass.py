"""The losses of a whole vocabulary at once, as on a GPU, compiled and as they are."""

import shutil
import subprocess
import sys

import pytest
import torch

from distilcli.losses.one_pass import filled_bias, filled_weight

# In a process of its own: annotations that are checked while tests run cannot be compiled.
SCRIPT = """
import sys
import torch
from distilcli.losses import one_pass
from distilcli.losses.fused_head import fused_vocabulary_losses
from distilcli.losses.projections import Projection
from distilcli.losses.jensen_shannon import JensenShannon
from distilcli.losses.logit_mse import LogitMSE
from distilcli.losses.masked_lm import MaskedLM
from distilcli.losses.reverse_kl import ReverseKL
from distilcli.losses.soft_targets import SoftTargets
from distilcli.models.placement import num_graphs

torch.set_default_device(sys.argv[2])
torch._dynamo.config.fail_on_recompile_limit_hit = True
compile = torch.compile
allowed = ("dynamic", "options") if sys.argv[1] == "inductor" else ("dynamic",)
options = {"backend": sys.argv[1], "fullgraph": sys.argv[1] != "inductor"}
torch.compile = lambda function, **others: compile(
    function, **options, **{k: v for k, v in others.items() if k in allowed}
)

def losses(terms, tokens, labelled, **options):
    torch.manual_seed(tokens)
    projections = [
        Projection(torch.randn(tokens, 8), torch.randn(30, 8), torch.randn(30)) for _ in range(2)
    ]
    student, teacher = projections
    for tensor in student:
        tensor.requires_grad_()
    labels = torch.randint(0, 30, (labelled,))
    coefficients = [torch.tensor(0.1 * (place + 1)) for place in range(len(terms))]
    if not any(term.needs_teacher for term in terms):
        teacher = None
    found = fused_vocabulary_losses(student, teacher, labels, terms, coefficients, **options)
    return found.sums, *torch.autograd.grad(found.total, list(student))

# Tokens of a step's micro-batches, and how many of them are labelled: all, some, none.
CASES = [(50, 50), (70, 10), (33, 0), (90, 90), (140, 37), (20, 0)]
every = [SoftTargets(1.0, 2.0), MaskedLM(1.0, 1.0)]
is_quick = sys.argv[1] == "inductor"  # which takes long
if is_quick:
    CASES = CASES[1:2]
else:
    every += [ReverseKL(1.0, 2.0), JensenShannon(1.0, 3.0), LogitMSE(1.0, 1.0)]
for terms in (every, [MaskedLM(1.0, 1.0)]):
    if is_quick and len(terms) == 1:
        break
    before, graphs = num_graphs(), []
    for place, (tokens, labelled) in enumerate(CASES):
        for term in terms:
            if term.softens:
                term.temperature += 0.1 * place  # a schedule's, which is compiled once
        expected = losses(terms, tokens, labelled, block_rows=7)
        found = losses(terms, tokens, labelled, block_rows=0, compiled=True)
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
        graphs.append(num_graphs() - before)
    # Some versions of PyTorch know that all tokens have a label, and make a graph of that.
    assert graphs[0] == 1 and graphs[-1] == graphs[: 3][-1] <= 3, graphs
print("done")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_traced_losses_are_those_of_the_blocks_and_need_three_graphs_at_most():
    """Whatever the numbers of tokens and labels (all, some or none have one) and temperatures."""
    done = run("aot_eager", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_losses_are_those_of_the_blocks():
    done = run("inductor", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_on_a_gpu_losses_at_once_are_those_of_the_blocks(backend):
    done = run(backend, "cuda")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


# A compiler that is not there.
BROKEN = SCRIPT.replace("CASES = [", "CASES = [(50, 50)]; graphs_of = [").replace(
    "    assert graphs[0]", "    continue\n    assert graphs[0]"
)


@pytest.mark.slow
def test_without_a_compiler_the_losses_run_as_they_are_and_say_so():
    command = [sys.executable, "-c", BROKEN, "tvm", "cpu"]  # a backend that is not installed
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the losses cannot be compiled, and run as they are") == 1


@pytest.mark.parametrize("size", [1, 63, 64, 65])
def test_ids_that_fill_up_have_no_weight_and_are_never_predicted(size):
    weight, bias = filled_weight(torch.ones(size, 3)), filled_bias(torch.ones(size))
    assert weight.shape[0] == bias.shape[0] == (64 if size <= 64 else 128)
    assert torch.equal(weight[:size], torch.ones(size, 3))
    assert torch.equal(bias[:size], torch.ones(size))
    assert not weight[size:].any()
    for temperature in (0.01, 1.0, 1e4):
        assert not torch.softmax(bias / temperature, dim=0)[size:].any()
