"""Layers of one kind share their graphs, however many there are and whatever their input."""

import shutil
import subprocess
import sys

import pytest

# In a process of its own: annotations that are checked while tests run cannot be compiled.
SCRIPT = """
import copy
import torch
from transformers import BertConfig, BertForMaskedLM
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.placement import compile_layers, num_graphs

torch._dynamo.config.fail_on_recompile_limit_hit = True
shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
model = BertForMaskedLM(BertConfig(num_hidden_layers=12, **shape)).eval()
use_packed_attention(model)
plain = copy.deepcopy(model)
compile_layers(model)
found = []
for lengths in ((5, 9), (3, 3, 8, 11), (2, 31)):
    tokens = sum(lengths)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
    packing = Packing(tuple((1, length) for length in lengths), boundaries, max(lengths))
    inputs = {"input_ids": torch.randint(0, 50, (1, tokens)), "packing": packing}
    inputs["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    outputs = [m.bert(**inputs).last_hidden_state for m in (model, plain)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    outputs[0].sum().backward()
    found.append(num_graphs())
print(*found)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_twelve_layers_share_a_few_graphs():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    graphs = [int(number) for number in done.stdout.split()]
    assert 0 < graphs[0] < 12
    assert graphs == [graphs[0]] * 3, "another number of tokens made something compile again"
