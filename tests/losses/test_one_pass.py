"""The losses of a whole vocabulary at once, as on a GPU, compiled and as they are."""

import shutil
import subprocess
import sys

import pytest
import torch

from distilcli.losses.one_pass import padded, whole_chunk

# In a process of its own: annotations that are checked while tests run cannot be compiled.
SCRIPT = """
import sys
import torch
from distilcli.losses import one_pass
from distilcli.losses.fused_head import Projection, fused_vocabulary_losses
from distilcli.losses.jensen_shannon import JensenShannon
from distilcli.losses.logit_mse import LogitMSE
from distilcli.losses.masked_lm import MaskedLM
from distilcli.losses.reverse_kl import ReverseKL
from distilcli.losses.soft_targets import SoftTargets
from distilcli.models.placement import num_graphs

torch.set_default_device(sys.argv[2])
torch._dynamo.config.fail_on_recompile_limit_hit = True
compile = torch.compile
options = {"backend": sys.argv[1], "fullgraph": sys.argv[1] != "inductor"}
torch.compile = lambda function, dynamic: compile(function, dynamic=dynamic, **options)

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
    for tokens, labelled in CASES:
        expected = losses(terms, tokens, labelled, block_rows=7)
        found = losses(terms, tokens, labelled, block_rows=0, compiled=True)
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
        graphs.append(num_graphs() - before)
    assert graphs == [1, 2, 3, 3, 3, 3][: len(graphs)], graphs
print("done")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_traced_losses_are_those_of_the_blocks_and_need_three_graphs():
    """Whatever the numbers of tokens and labels: all, some or none of the tokens have a label."""
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
    "    assert graphs == ", "    continue\n    assert graphs == "
)


@pytest.mark.slow
def test_without_a_compiler_the_losses_run_as_they_are_and_say_so():
    command = [sys.executable, "-c", BROKEN, "tvm", "cpu"]  # a backend that is not installed
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the losses cannot be compiled, and run as they are") == 1


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 128])
def test_tokens_that_fill_up_are_zeros_and_at_least_one(tokens):
    found = padded(torch.ones(tokens, 3))
    assert found.shape[0] % 64 == 0
    assert 0 < found.shape[0] - tokens <= 64
    assert torch.equal(found[:tokens], torch.ones(tokens, 3))
    assert not found[tokens:].any()


@pytest.mark.parametrize("tokens", [1, 64, 100, 4397])
def test_a_whole_chunk_is_filled_with_few_tokens(tokens):
    chunk = whole_chunk(tokens)
    assert padded(torch.ones(chunk, 1)).shape[0] - chunk == 8
    assert chunk <= max(tokens, 64)
