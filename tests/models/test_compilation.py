"""Layers of one kind share their graphs, however many there are and whatever their input.

What a loss term looks at inside the model is found there all the same.
"""

import shutil
import subprocess
import sys

import pytest

# In a process of its own: annotations that are checked while tests run cannot be compiled.
SCRIPT = """
import copy
import torch
from transformers import BertConfig, BertForMaskedLM
from distilcli.losses.inside import Place
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.inside import Recorder
from distilcli.models.placement import compile_layers, num_graphs

torch._dynamo.config.fail_on_recompile_limit_hit = True
shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
model = BertForMaskedLM(BertConfig(num_hidden_layers=12, **shape)).eval()
use_packed_attention(model)
plain = copy.deepcopy(model)
places = [Place("hidden_states", after) for after in range(13)]
places += [Place(what, 3) for what in ("query", "key", "value")]
places += [Place(what, 5) for what in ("attention_query", "attention_key")]
recorders = [Recorder(m, places) for m in (model, plain)]
compile_layers(model)
found = []
for lengths in ((5, 9), (3, 3, 8, 11), (2, 31)):
    tokens = sum(lengths)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
    packing = Packing(tuple((1, length) for length in lengths), boundaries, max(lengths))
    inputs = {"input_ids": torch.randint(0, 50, (1, tokens)), "packing": packing}
    inputs["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    inside = []
    for m, recorder in zip((model, plain), recorders, strict=True):
        with recorder.recording() as states:
            m.bert(**inputs)
        inside.append(dict(states))
    assert set(inside[0]) == set(places)
    torch.testing.assert_close(*inside, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(sum(states.square().mean() for states in of_model.values()), weights)
        for of_model, weights in zip(
            inside, ([*m.bert.encoder.parameters()] for m in (model, plain)), strict=True
        )
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
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
