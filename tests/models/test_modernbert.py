"""ModernBERT: local layers, biases that may be missing, mean pooling, and configurations of it."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_tokenizers import byte_level_of_modernbert
from kept_outputs import compute
from task_models import make_inputs, make_model, run_padded
from tiny_experiments import run
from tiny_families import POSITIONS, VOCAB, tiny_config, tiny_masked_lm, with_weights
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, ModernBertForMaskedLM, PreTrainedModel

from distilcli.batches.packing import PackedSequences, positions
from distilcli.config.models import CopiedStudent
from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.errors import ConfigError, ModelError
from distilcli.losses.fused_head import fused_vocabulary_losses
from distilcli.losses.masked_lm import MaskedLM as MaskedLMTerm
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.copying import config_of_student, copy_layers
from distilcli.models.families import FAMILIES, encoder, encoder_layers
from distilcli.models.loading import load_masked_lm, read_config
from distilcli.models.placement import offload_layers
from distilcli.models.running import run_encoder, run_model, vocabulary_projection
from distilcli.models.saving import save_model
from distilcli.models.students import build_student, set_dropout
from distilcli.tasks.inputs import pack_inputs

FAMILY = FAMILIES["modernbert"]
GLOBAL, LOCAL = "full_attention", "sliding_attention"
# One token, less than the window, just as much, one more, and several windows.
LENGTHS = (1, 4, 5, 6, 36, 25, 24)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def made(num_layers: int = 4, **changes: Any) -> PreTrainedModel:
    """Every second layer global, so that the last one is local."""
    types = [LOCAL if i % 2 else GLOBAL for i in range(num_layers)]
    return tiny_masked_lm(FAMILY, num_layers=num_layers, **{"layer_types": types} | changes)


def sequences() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(5, VOCAB, (length,), generator=draw) for length in LENGTHS]


def packed(rows: list[Tensor]) -> PackedSequences:
    lengths = tuple(map(len, rows))
    position_ids, boundaries = positions(np.array(lengths))
    return PackedSequences(torch.cat(rows)[None], position_ids, boundaries, lengths, lengths)


def logits(model: PreTrainedModel, attention: str = "sdpa") -> list[Tensor]:
    """Of each sequence alone, as transformers has it."""
    copy = deepcopy(model)
    copy.set_attn_implementation(attention)
    with torch.no_grad():
        return [copy(input_ids=row[None]).logits[0] for row in sequences()]


def packed_logits(model: PreTrainedModel) -> Tensor:
    copy = deepcopy(model)
    use_packed_attention(copy)
    batch = packed(sequences())
    with torch.no_grad():
        head = vocabulary_projection(copy, run_encoder(copy, batch, Packing.of(batch)))
    return head.features @ head.weight.T + head.bias


def saved(folder: Path, model: PreTrainedModel | None = None, **changes: object) -> Path:
    """A folder of a model, whose config.json then says something else; None takes a key out."""
    (made() if model is None else model).save_pretrained(folder)
    path = folder / "config.json"
    tree = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))
    return folder


# What it computes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local_attention": 1},
        {"local_attention": 9},
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
        {"decoder_bias": False, "tie_word_embeddings": False},
        {
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 50.0} for kind in (GLOBAL, LOCAL)
            }
        },
        {
            "rope_parameters": {
                GLOBAL: {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0},
                LOCAL: {"rope_type": "linear", "factor": 2.0, "rope_theta": 10.0},
            }
        },
    ],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_packed_is_each_sequence_alone(changes):
    """Whatever its configuration switches on or off; also as transformers multiplies it out."""
    model = made(**changes).double()
    found = packed_logits(model)
    torch.testing.assert_close(found, torch.cat(logits(model)), **EXACT)
    rounded = torch.cat(logits(model, "eager"))  # whose softmax is of 32 bits
    torch.testing.assert_close(found, rounded, rtol=1e-4, atol=1e-5)


def test_a_packed_row_makes_no_mask_of_its_length(monkeypatch):
    """Layers are given none at all."""
    model = made()
    use_packed_attention(model)
    given = []
    for layer in encoder_layers(model):
        layer.register_forward_pre_hook(
            lambda _, args, options: given.append(options["attention_mask"]), with_kwargs=True
        )
    batch = packed(sequences())
    run_encoder(model, batch, Packing.of(batch))
    assert given == [None] * 4


def test_a_decoder_without_bias_has_the_losses_of_its_logits():
    model = made(decoder_bias=False)
    assert model.decoder.bias is None
    use_packed_attention(model)
    batch = packed(sequences())
    labels = torch.randint(5, VOCAB, (batch.num_tokens,))
    head = vocabulary_projection(model, run_encoder(model, batch, Packing.of(batch)))
    assert head.bias.shape == (VOCAB,)
    assert not head.bias.requires_grad
    found = fused_vocabulary_losses(
        head, None, labels, [MaskedLMTerm(1.0, 1.0)], [torch.tensor(1.0)]
    )
    found.total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    hidden = run_encoder(model, batch, Packing.of(batch))
    expected = nn.functional.cross_entropy(
        model.decoder(model.head(hidden)), labels, reduction="sum"
    )
    expected.backward()
    torch.testing.assert_close(found.total, expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_dropout_without_a_module_acts_in_training_alone(rate):
    """Of attention probabilities it is a number of the layer."""
    model = made()
    set_dropout(model, 0.0, rate)
    use_packed_attention(model)
    batch = packed(sequences())
    for layer in encoder_layers(model):
        assert layer.attn.attention_dropout == rate
        assert isinstance(layer.attn.out_drop, nn.Dropout) == (rate > 0)
        layer.attn.out_drop = nn.Identity()

    def hidden() -> Tensor:
        return run_encoder(model, batch, Packing.of(batch)).detach()

    still = hidden()
    assert torch.equal(hidden(), still)
    model.train()
    assert torch.equal(hidden(), still) == (rate == 0.0)


# Heads


@pytest.mark.parametrize("samples", [[0], [3, 0, 3, 5], [5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_states_of_an_input_are_pooled_as_its_configuration_says(pooling, samples):
    """Forward and gradient, of a packed batch."""
    model = make_model("modernbert", "sequence").double()
    model.config.classifier_pooling = pooling
    inputs = make_inputs([9, 5, 12, 1, 30, 2], "sequence")
    ours, theirs = deepcopy(model), model
    use_packed_attention(ours)
    expected = run_padded(theirs, inputs, samples).outputs
    found, _ = run_model(ours, pack_inputs(inputs, samples))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_the_outputs_of_a_teacher_that_pools_by_the_mean_are_kept(tmp_path):
    teacher, inputs = make_model("modernbert", "sequence"), make_inputs([9, 5, 12, 30], "sequence")
    teacher.config.classifier_pooling = "mean"
    cached = TeacherOutputs(tmp_path, teacher, inputs, False)
    compute(cached, teacher)
    found, _ = cached.of([2, 0, 3, 1])
    with torch.no_grad():
        expected = run_padded(teacher, inputs, [2, 0, 3, 1]).outputs
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)


# Students


def test_the_pattern_of_a_student_is_that_of_its_source():
    student = copy_layers(made(7), [0, 3, 4])
    assert student.config.layer_types == [GLOBAL, LOCAL, GLOBAL]
    assert [layer.attention_type for layer in encoder_layers(student)] == [GLOBAL, LOCAL, GLOBAL]
    assert isinstance(encoder_layers(student)[0].attn_norm, nn.Identity)


@pytest.mark.parametrize("num_layers", [2, 3, 9])
def test_a_student_with_random_weights_has_it_too(num_layers):
    """Also one that is deeper than the model it is like."""
    like = made(4, norm_bias=True, local_attention=6, classifier_pooling="mean").config
    config = config_of_student(like, num_layers, tied=True)
    assert config.layer_types == [LOCAL if i % 2 else GLOBAL for i in range(num_layers)]
    assert (config.norm_bias, config.local_attention) == (True, 6)
    assert (config.classifier_pooling, config.rope_parameters) == ("mean", like.rope_parameters)
    ModernBertForMaskedLM(config)


def test_transformers_4_is_told_the_pattern_in_its_own_words(tmp_path):
    """It knows no types of layers: it reads every how manieth is global, and each base."""
    rope = {GLOBAL: {"rope_theta": 500.0}, LOCAL: {"rope_theta": 700.0}}
    for _ in range(2):  # and again, when it was loaded
        model = copy_layers(made(6, rope_parameters=rope), [0, 1, 4])
        save_model(model, byte_level_of_modernbert(), tmp_path / "student")
        tree = json.loads((tmp_path / "student" / "config.json").read_text())
        assert tree["layer_types"] == [GLOBAL, LOCAL, GLOBAL]
        assert tree["global_attn_every_n_layers"] == 2
        assert (tree["global_rope_theta"], tree["local_rope_theta"]) == (500.0, 700.0)
        loaded = load_masked_lm(str(tmp_path / "student"))
        assert loaded.config.layer_types == [GLOBAL, LOCAL, GLOBAL]
        for one, other in zip(logits(loaded), logits(model), strict=True):
            assert torch.equal(one, other)


def test_what_transformers_4_cannot_be_told_is_null(tmp_path):
    """It fails there, and does not compute something else."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0}
    types = [GLOBAL, LOCAL, LOCAL, GLOBAL, GLOBAL]
    model = made(5, layer_types=types, rope_parameters={GLOBAL: yarn, LOCAL: dict(yarn)})
    save_model(model, byte_level_of_modernbert(), tmp_path / "student")
    tree = json.loads((tmp_path / "student" / "config.json").read_text())
    for name in ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"):
        assert tree[name] is None
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    for one in (loaded, load_masked_lm(str(tmp_path / "student"))):
        assert torch.equal(logits(one)[0], logits(model)[0])


def test_one_number_for_the_pattern_is_kept_where_several_fit(tmp_path):
    """Of two layers every n from 2 is right; the source says 3."""
    model = tiny_masked_lm(FAMILY, num_layers=6, global_attn_every_n_layers=3)
    save_model(copy_layers(model, [0, 4]), byte_level_of_modernbert(), tmp_path / "student")
    tree = json.loads((tmp_path / "student" / "config.json").read_text())
    assert tree["global_attn_every_n_layers"] == 3


def test_a_list_of_layers_that_breaks_the_pattern_is_refused(tmp_path):
    teacher = saved(tmp_path / "teacher", made(4, vocab_size=len(byte_level_of_modernbert())))
    byte_level_of_modernbert().save_pretrained(teacher)
    given = ["init-student", "--teacher", str(teacher), "--output", str(tmp_path / "student")]
    finished = run(*given, "--layers", "0,2")
    assert finished.code == 2
    for message in (
        "--layers: the student's layer 1 must be a sliding_attention layer of the source",
        "the source's layer 2 is a full_attention layer",
        "as in 0,1.",
    ):
        assert message in " ".join(finished.stderr.split())
    assert not (tmp_path / "student").exists()
    settings = CopiedStudent(layers=[2, 1])
    with pytest.raises(ConfigError, match="layer 0 must be the first layer of the source"):
        build_student(settings, made(4), seed=0)


def test_only_its_layers_are_in_host_memory():
    model = made().requires_grad_(False)
    use_packed_attention(model)
    expected = packed_logits(model)
    offload_layers(model, torch.device("cpu"))
    inside = {id(p) for layer in encoder_layers(model) for p in layer.parameters()}
    batch = packed(sequences())
    for _ in range(2):
        assert all(p.is_meta == (id(p) in inside) for p in model.parameters())
        hidden = run_encoder(model, batch, Packing.of(batch))
        head = vocabulary_projection(model, hidden)
        assert torch.equal(head.features @ head.weight.T + head.bias, expected)
        inside = {id(p) for layer in encoder_layers(model) for p in layer.parameters()}


# Configurations


@pytest.mark.parametrize("kind", ["absolute", "sans_pos"])
def test_a_configuration_of_transformers_4_is_understood(kind, tmp_path):
    """As those on the hub: one number for the layer types, and the bases of positions apart.

    ModernBERT says "absolute" of its positions there, and mmBERT and Ettin say "sans_pos".
    """
    model = made(4, rope_parameters={GLOBAL: {"rope_theta": 50.0}, LOCAL: {"rope_theta": 7.0}})
    older = {"global_rope_theta": 50.0, "local_rope_theta": 7.0, "global_attn_every_n_layers": 2}
    older |= {"position_embedding_type": kind, "reference_compile": False, "is_causal": False}
    folder = saved(tmp_path, model, layer_types=None, rope_parameters=None, **older)
    loaded = load_masked_lm(str(folder))
    copy_layers(loaded, [0, 1])
    assert loaded.config.layer_types == [GLOBAL, LOCAL] * 2
    torch.testing.assert_close(packed_logits(loaded), packed_logits(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local_attention": 0}, "local_attention is 0, not a whole number from 1"),
        ({"local_attention": 8.0}, "local_attention is 8.0, not a whole number from 1"),
        ({"local_attention": True}, "local_attention is True, not a whole number from 1"),
        ({"layer_types": [GLOBAL, LOCAL]}, "layer_types names 2 layers, of 4"),
        ({"layer_types": [GLOBAL, "conv", LOCAL, GLOBAL]}, "not a list of full_attention and"),
        ({"layer_types": "full_attention"}, "not a list of full_attention and sliding_attention"),
        ({"layer_types": [[], {}, 1, 2]}, "not a list of full_attention and sliding_attention"),
        (
            {"layer_types": None, "global_attn_every_n_layers": 0},
            "global_attn_every_n_layers is 0, not a whole number from 1",
        ),
        ({"classifier_pooling": "max"}, "classifier_pooling is 'max', not cls or mean"),
        ({"rope_parameters": [1]}, "rope_parameters or rope_scaling is not an object"),
        ({"rope_parameters": {LOCAL: {"rope_theta": 0}}}, "positions is 0, not above 0"),
        ({"local_rope_theta": "10000"}, "the base of rotary positions is '10000', not above 0"),
        ({"hidden_activation": "gelu_of_ours"}, "'gelu_of_ours' is no activation"),
        ({"num_attention_heads": 16}, "heads of 1, and rotary positions turn pairs of numbers"),
        ({"num_attention_heads": 3}, "3 attention heads do not divide a width of 16"),
    ],
)
def test_a_configuration_that_is_not_valid_is_refused(changes, message, tmp_path):
    with pytest.raises(ModelError) as caught:
        read_config(str(saved(tmp_path, **changes)), None, "teacher")
    assert f"teacher {tmp_path}: its config.json is not valid" in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_positions_that_depend_on_the_batch_are_refused(kind, key, tmp_path):
    scaled = {"rope_type": kind, "factor": 2.0}
    value = {GLOBAL: scaled} if key == "rope_parameters" else {"type": kind, "factor": 2.0}
    with pytest.raises(ModelError) as caught:
        read_config(str(saved(tmp_path, **{key: value})), None, "teacher")
    assert f"rotary positions are of the type {kind}" in caught.value.message
    assert "depends on the longest sequence of its batch" in caught.value.message
    assert "default, linear" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 25}, "Wi.weight is [48, 16], but config.json makes it [50, 16]"),
        ({"vocab_size": 10**9}, "tok_embeddings.weight is [60, 16], but config.json"),
        ({"hidden_size": 32}, "but config.json makes it [60, 32]"),
        ({"num_hidden_layers": 1, "layer_types": [GLOBAL]}, "does not account for model.layers.1"),
        ({"mlp_bias": True}, "weights of its body are missing"),
    ],
)
def test_weights_of_other_sizes_are_refused(changes, message, tmp_path):
    with pytest.raises(ModelError) as caught:
        load_masked_lm(str(saved(tmp_path, **changes)))
    assert message in caught.value.message


def test_its_positions_are_those_that_its_configuration_says():
    """Rotary positions have no table that would end."""
    config = tiny_config(FAMILY)
    assert FAMILY.num_positions(config) == POSITIONS
    model = with_weights(FAMILY.masked_lm, config)
    assert not [name for name, _ in encoder(model).named_parameters() if "position" in name]
