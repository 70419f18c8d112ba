"""Layers of one kind share their graphs, however many there are and whatever their input.

What a loss term looks at inside the model is found there all the same.
"""

import shutil
import subprocess
import sys

import pytest
import torch

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


# Tensors without values, as which the one kernel of a GPU can be traced on any machine.
TRACED = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertModel
from distilcli.models import attention, variable_length
from distilcli.models.attention import Packing, listen_to_attention, use_packed_attention
from distilcli.models.placement import compile_layers, num_graphs

variable_length._has_flash_attention = lambda index: True
attention.has_kernel = lambda query: (
    variable_length.why_no_kernel(query.device, query.dtype, query.shape[-1]) is None
)
torch._dynamo.config.fail_on_recompile_limit_hit = True
compile, kernels, heard = torch.compile, [], []
def backend(graph, _inputs):
    kernels.append(sum("flash_attention" in str(node.target) for node in graph.graph.nodes))
    return graph
torch.compile = lambda function, dynamic: compile(
    function, dynamic=dynamic, backend=backend, fullgraph=True
)
shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 50}
with FakeTensorMode(allow_non_fake_inputs=True):
    model = BertModel(BertConfig(num_hidden_layers=4, **shape), add_pooling_layer=False)
    use_packed_attention(model)
    listen_to_attention(model.encoder.layer[3].attention.self, lambda *found: heard.append(found))
    compile_layers(model)
    # The layer that is listened to is not compiled, and no kernel runs on a CPU.
    attention._untraced_attention = lambda *inputs, packing, **others: (
        [listener(*inputs[1:3]) for listener in attention._LISTENERS[inputs[0]]]
        and inputs[1].transpose(1, 2), None
    )
    graphs = []
    for lengths in ((5, 9), (3, 3, 8, 11), (2, 31)):
        boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
        packing = Packing(tuple((1, length) for length in lengths), boundaries, max(lengths))
        inputs = torch.randint(0, 50, (1, sum(lengths)))
        with torch.autocast("cpu", torch.bfloat16):
            found = model(input_ids=inputs, position_ids=inputs % 40, packing=packing)
        assert found.last_hidden_state.shape == (1, sum(lengths), 32)
        graphs.append(num_graphs())
print(graphs, kernels, len(heard))
"""


@pytest.mark.slow
def test_attention_in_one_kernel_is_part_of_the_graph_unless_someone_listens():
    done = subprocess.run(
        [sys.executable, "-c", TRACED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 1, 1] [1] 3\n"


ON_GPU = """
import copy
import torch
from transformers import BertConfig, BertModel
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.placement import compile_layers, num_graphs

torch._dynamo.config.fail_on_recompile_limit_hit = True
compile = torch.compile
torch.compile = lambda function, dynamic: compile(function, dynamic=dynamic, fullgraph=True)
shape = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 50}
dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
model = BertModel(BertConfig(num_hidden_layers=3, **shape, **dropout), add_pooling_layer=False)
use_packed_attention(model.cuda())
plain = copy.deepcopy(model)
compile_layers(model)
graphs = []
for lengths in ((5, 9), (3, 3, 8, 11), (2, 31), (40, 2)):
    boundaries = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
    packing = Packing(tuple((1, length) for length in lengths), boundaries, max(lengths))
    inputs = torch.randint(0, 50, (1, sum(lengths)), device="cuda")
    found = []
    for one in (model, plain):
        one.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            states = one(input_ids=inputs, position_ids=inputs, packing=packing).last_hidden_state
        states.float().square()[..., ::2].sum().backward()
        layers = list(one.encoder.layer.parameters())
        found.append([states.detach(), *(parameter.grad.clone() for parameter in layers)])
    for one, other in zip(*found):
        # The gradient of the keys' bias is 0 but for rounding.
        assert (one - other).norm() < 0.03 * other.norm() + 0.05, (lengths, one.shape)
    graphs.append(num_graphs())
assert graphs[1:] == [graphs[1]] * 3, graphs
print("done")
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_compiled_layers_with_attention_within_are_those_that_are_not_compiled():
    done = subprocess.run(
        [sys.executable, "-c", ON_GPU], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
