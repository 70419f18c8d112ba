"""Every family in the table computes what transformers does, and makes the students it names.

A new family is tested by its row in the table alone; where its models need more than sizes, that
stands in `TINY` (`tests/helpers/tiny_families.py`).
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from task_models import HEADS, make_inputs, make_model, run_padded
from tiny_experiments import word_tokenizer
from tiny_families import (
    HIDDEN,
    INNER,
    LAYERS,
    NUM_SPECIAL,
    POSITIONS,
    VOCAB,
    exact_attention,
    fitting,
    tiny_masked_lm,
    with_weights,
)
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForMaskedLM, PreTrainedModel
from transformers.activations import ACT2FN

from distilcli.batches.packing import PackedSequences, positions
from distilcli.errors import ModelError
from distilcli.models import families
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.copying import adds_token_type, config_of_student, copy_layers
from distilcli.models.families import FAMILIES, Family, student_family
from distilcli.models.loading import load_masked_lm
from distilcli.models.running import run_encoder, run_model, vocabulary_projection
from distilcli.models.saving import first_difference, save_model
from distilcli.models.students import set_dropout
from distilcli.tasks.inputs import pack_inputs

# Below and above the local windows of families that have them, too.
LENGTHS = (9, 3, 3, 20, 1, 36, 12)
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
each_head = pytest.mark.parametrize("head", HEADS)
# Of 64 bits, 1e-12 is rounding. DistilBERT's epsilon, 1e-12 too, may be another than the source's.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def model(family: Family) -> PreTrainedModel:
    return tiny_masked_lm(family).double()


def sequences() -> list[Tensor]:
    """Token ids of sequences of LENGTHS, none of them special."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(NUM_SPECIAL, VOCAB, (length,), generator=draw) for length in LENGTHS]


def packed(rows: list[Tensor]) -> PackedSequences:
    lengths = tuple(map(len, rows))
    position_ids, boundaries = positions(np.array(lengths))
    return PackedSequences(
        torch.cat(rows)[None], position_ids, boundaries, lengths, tuple(range(len(rows)))
    )


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """A copy as transformers runs it."""
    copy = deepcopy(model)
    copy.set_attn_implementation(exact_attention(copy))
    return copy


def logits(model: PreTrainedModel, rows: list[Tensor]) -> list[Tensor]:
    """The logits of each sequence, run alone and given nothing but its tokens."""
    with torch.no_grad():
        return [plain(model)(input_ids=row[None]).logits[0] for row in rows]


# Where its parts are


@each_family
def test_every_role_is_a_module_of_the_right_shape(family, model):
    """Two roles confused would be found here, or, of one shape, by the copies below."""
    shapes = dict.fromkeys(family.layer.roles, (HIDDEN, HIDDEN))
    shapes |= {"inner": (INNER, HIDDEN), "outer": (HIDDEN, INNER)}
    shapes |= {"gate": (INNER, HIDDEN)} if family.layer.gate is not None else {}
    shapes |= {"attention_norm": (HIDDEN,), "output_norm": (HIDDEN,)}
    layers = families.encoder_layers(model)
    assert len(layers) == LAYERS
    layer = layers[-1]
    paths = family.layer.roles
    for role, path in paths.items():
        module = layer.get_submodule(path)
        index, count = family.layer.part(role)
        assert index < count
        assert tuple(module.weight.chunk(count)[index].shape) == shapes[role], role
        assert module.bias is None or len(module.bias) == len(module.weight), role
    of_roles = sum(
        p.numel() for path in set(paths.values()) for p in layer.get_submodule(path).parameters()
    )
    assert of_roles == families.num_parameters(layer), "a part of a layer has no role"
    body = families.encoder(model)
    words = body.get_submodule(family.embeddings.words)
    assert words is model.get_input_embeddings()
    width = family.embedding_width(model.config)
    assert body.get_submodule(family.embeddings.norm).weight.shape == (width,)
    first = families.first_position(model)
    if family.embeddings.positions is not None:
        table = body.get_submodule(family.embeddings.positions)
        assert table.weight.shape == (POSITIONS + first, width)
    for path, rows in family.tables(model.config).items():
        assert body.get_submodule(path).weight.shape == (rows, width)
    tables = {name for name, module in body.named_modules() if isinstance(module, nn.Embedding)}
    assert tables == set(family.tables(model.config))
    assert family.settings.dropout != family.settings.attention_dropout


@each_family
def test_every_role_of_a_layer_does_what_it_says(family, model):
    """Seen at what goes into and comes out of its modules: query and key have one shape."""
    attended: dict[str, Tensor] = {}

    def attention(module, query, key, value, mask, **options):
        found, _ = eager(module, query, key, value, mask, **options)
        states = {"query": query, "key": key, "value": value}
        attended.update({name: tensor.transpose(1, 2) for name, tensor in states.items()})
        attended["attention"] = found
        return found, None

    def eager(module, query, key, value, mask, *, scaling, **_):
        shares = (query @ key.transpose(2, 3) * scaling).softmax(dim=-1)
        return (shares @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("recorded", attention)
    model.set_attn_implementation("recorded")
    layer = families.encoder_layers(model)[-1]
    into: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    for role, path in family.layer.roles.items():
        layer.get_submodule(path).register_forward_hook(
            lambda _, given, result, role=role: (
                into.update({role: given[0]}) or out.update({role: result})
            )
        )
    with torch.no_grad():
        hidden = families.encoder(model)(input_ids=sequences()[0][None]).last_hidden_state
    for role in out:
        index, count = family.layer.part(role)
        out[role] = out[role].chunk(count, dim=-1)[index]
    for role in ("query", "key", "value"):
        found, expected = attended[role].reshape(out[role].shape), out[role]
        if family.embeddings.positions is None and role != "value":
            # Rotated, in 32 bits, by its position: not at all at the first.
            torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=1e-6, atol=1e-6, msg=role)
        else:
            assert torch.equal(found, expected), role
    assert torch.equal(into["attention_output"], attended["attention"].reshape(hidden.shape))
    if torch.equal(into["inner"], out["attention_norm"]):  # norms after the residuals
        assert torch.equal(out["output_norm"], hidden)
    else:
        assert torch.equal(into["query"], out["attention_norm"])
        assert torch.equal(into["inner"], out["output_norm"])
    if family.layer.gate is not None:
        activated = ACT2FN[getattr(model.config, family.settings.activation)](out["inner"])
        assert torch.equal(into["outer"], activated * out["gate"])


@each_family
def test_the_head_is_its_features_and_its_decoder(family, model):
    rows = sequences()
    use_packed_attention(model)
    batch = packed(rows)
    with torch.no_grad():
        hidden = run_encoder(model, batch, Packing.of(batch))
        head = vocabulary_projection(model, hidden)
        found = head.features @ head.weight.T + head.bias
    torch.testing.assert_close(found, torch.cat(logits(model, rows)), **EXACT)
    parts = family.vocabulary_head
    width = family.embedding_width(model.config)
    for path, shape in ((parts.transform, (width, HIDDEN)), (parts.norm, (width,))):
        assert tuple(model.get_submodule(path).weight.shape) == shape
        bias = model.get_submodule(path).bias
        assert bias is None or len(bias) == width
    assert families.decoder(model).weight.shape == (VOCAB, width)
    for name in parts.biases:
        assert model.get_parameter(name) is families.decoder(model).bias


@each_family
def test_every_weight_that_asks_for_a_gradient_gets_one(family, tmp_path):
    """Of tied models and of untied ones: distributed training would wait for it for ever."""
    for tied in (True, False):
        folder = tmp_path / str(tied)
        tiny_masked_lm(family, tie_word_embeddings=tied).save_pretrained(folder)
        loaded = load_masked_lm(str(folder))
        for model in (loaded, copy_layers(loaded, fitting(loaded, [1]))):
            plain_model = model.train()
            plain_model.set_attn_implementation("eager")
            plain_model(input_ids=sequences()[3][None]).logits.square().sum().backward()
            without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert without == []


# Packed


@each_family
def test_packed_is_each_sequence_alone(family, model):
    """Forward and gradient, of which every weight of the body has one."""
    rows = sequences()
    ours, theirs = deepcopy(model), plain(model)
    use_packed_attention(ours)
    batch = packed(rows)
    found = run_encoder(ours, batch, Packing.of(batch))
    outputs = (families.encoder(theirs)(input_ids=row[None]) for row in rows)
    expected = torch.cat([output.last_hidden_state[0] for output in outputs])
    torch.testing.assert_close(found, expected, **EXACT)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, **EXACT, msg=name)


@each_family
def test_positions_begin_where_transformers_begins(family, model):
    [*_, row] = sequences()
    first = families.first_position(model)
    given = torch.arange(first, first + len(row))[None]
    with torch.no_grad():
        found = plain(model)(input_ids=row[None], position_ids=given).logits
    assert torch.equal(found[0], logits(model, [row])[0])


@each_family
def test_there_are_positions_for_so_many_tokens_and_no_more(family, model):
    longest = families.num_positions(model.config)
    assert longest == POSITIONS
    row = torch.arange(longest + 1) % (VOCAB - NUM_SPECIAL) + NUM_SPECIAL
    use_packed_attention(model)
    for length in (longest, longest + 1):
        batch = packed([row[:length]])
        if length == longest:
            found = run_encoder(model, batch, Packing.of(batch))
            assert found.isfinite().all()
        elif family.embeddings.positions is not None:
            with pytest.raises((IndexError, RuntimeError)):  # of a table of positions, or of types
                run_encoder(model, batch, Packing.of(batch))


# Students


@each_family
def test_a_copy_of_every_layer_computes_what_its_source_does(family, model):
    student = copy_layers(model, list(range(LAYERS)))
    assert type(student) is student_family(family).masked_lm
    rows = sequences()
    found, expected = logits(student, rows), logits(model, rows)
    for one, other in zip(found, expected, strict=True):
        if type(student) is type(model):
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in student.parameters()}


@each_family
def test_a_student_is_of_its_own_family_or_of_the_named_one(family, model):
    """What is no BERT and no DistilBERT cannot be copied into one, and says why."""
    same = copy_layers(model, [0], "same")
    assert type(same) is type(model)
    if student_family(family).model_type == "distilbert":
        assert type(copy_layers(model, [0], "distilbert")) is FAMILIES["distilbert"].masked_lm
        return
    with pytest.raises(ModelError) as caught:
        copy_layers(model, [0], "distilbert")
    reason = f"student.architecture=distilbert: a DistilBERT cannot be made of {family.a_name}, "
    assert caught.value.message.startswith(f"{reason}which ")
    assert caught.value.hint.endswith(f"for {family.a_name} with fewer layers.")


@each_family
@pytest.mark.parametrize("chosen", [[0, 2], [2, 0, 0]])
def test_a_student_is_its_source_with_those_layers(family, model, chosen):
    chosen = fitting(model, chosen)
    student = copy_layers(model, chosen)
    target = student_family(family)
    assert len(families.encoder_layers(student)) == len(chosen)
    assert getattr(student.config, target.settings.num_hidden_layers) == len(chosen)
    layers = families.encoder_layers(model)
    kept = [deepcopy(layers[index]) for index in chosen]
    del layers[:]
    layers.extend(kept)
    model.config.num_hidden_layers = len(chosen)
    rows = sequences()
    for one, other in zip(logits(student, rows), logits(model, rows), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@each_family
def test_a_student_is_loaded_by_the_plain_auto_class(family, tmp_path):
    student = copy_layers(tiny_masked_lm(family), [0, 2])
    save_model(student, word_tokenizer(), tmp_path / "student")
    loaded, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "student", output_loading_info=True
    )
    assert type(loaded) is student_family(family).masked_lm
    assert not any(info.values())
    assert first_difference(loaded, student) is None
    assert first_difference(load_masked_lm(str(tmp_path / "student")), student) is None
    rows = sequences()
    for one, other in zip(logits(loaded, rows), logits(student, rows), strict=True):
        assert torch.equal(one, other)


@each_family
def test_a_student_with_random_weights_has_the_shape_of_a_copied_one(family, model):
    target = student_family(family)
    found = target.masked_lm(config_of_student(model.config, 2, tied=True))
    expected = copy_layers(model, [0, 2])
    shapes = {name: weight.shape for name, weight in expected.state_dict().items()}
    assert {name: weight.shape for name, weight in found.state_dict().items()} == shapes
    eps = {m.eps for m in found.modules() if isinstance(m, nn.LayerNorm)}
    assert eps == {m.eps for m in expected.modules() if isinstance(m, nn.LayerNorm)}


@each_family
def test_dropout_is_where_the_configuration_of_transformers_puts_it(family):
    """The modules of a model that was told are those of one that is built after it."""
    model = tiny_masked_lm(family)
    set_dropout(model, 0.3, 0.2)
    built = family.masked_lm(model.config)

    def rates(one: PreTrainedModel) -> dict[str, float]:
        return {name: m.p for name, m in one.named_modules() if isinstance(m, nn.Dropout)}

    def without_module(one: PreTrainedModel) -> dict[str, float | None]:
        rate = family.settings.attention_dropout
        return {name: vars(m).get(rate) for name, m in one.named_modules()}

    assert rates(model) == rates(built)
    assert without_module(model) == without_module(built)
    set_dropout(model, 0.0, 0.0)
    assert set(rates(model).values()) <= {0.0}
    set_dropout(model, 0.3, 0.2)
    assert list(rates(model).values()).count(0.2) == LAYERS
    assert set(rates(model).values()) == {0.2, 0.3}


@each_family
def test_a_student_that_loses_token_types_keeps_their_first(family, model):
    """It says so, too: `init-student` prints what was added to what."""
    target = student_family(family)
    assert student_family(target) is target, "a student's student is of its own family"
    added = adds_token_type(family, target)
    if target.embeddings.positions is None:
        assert not added
        return
    positions_of = [
        families.encoder(one).get_submodule(its.embeddings.positions).weight
        for one, its in ((model, family), (copy_layers(model, [0]), target))
    ]
    assert torch.equal(*positions_of) == (not added)


# Heads


class Halved(nn.Module):
    """Stands where a dropout is."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden / 2


@each_family
@each_head
def test_a_head_computes_what_transformers_does(family, head):
    """Of pairs, so that token types count where a family takes them.

    What is halved wherever the head has a dropout tells where those are, and how often each is.
    """
    model = make_model(family.model_type, head).double()
    inputs, samples = make_inputs(list(LENGTHS), head), [0, 3, 5, 3]
    of_body = set(model.base_model.modules())
    dropouts = [n for n, m in model.named_modules() if isinstance(m, nn.Dropout)]
    for name in dropouts:
        if model.get_submodule(name) not in of_body:
            model.set_submodule(name, Halved())
    with torch.no_grad():
        expected = run_padded(model, inputs, samples)
        use_packed_attention(model)
        outputs, hidden = run_model(model, pack_inputs(inputs, samples))
    torch.testing.assert_close(outputs, expected.outputs.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden, expected.hidden, **EXACT)


@each_family
@each_head
def test_a_student_with_a_head_keeps_its_class_and_its_head(family, head):
    source = make_model(family.model_type, head, num_layers=LAYERS)
    chosen = list(range(LAYERS)), fitting(source, [2])
    whole, part = (copy_layers(source, layers) for layers in chosen)
    assert first_difference(whole, source) is None
    assert type(part) is type(source)
    ours, theirs = part.state_dict(), source.state_dict()
    of_head = [name for name in theirs if families.is_of_head(source, name)]
    assert of_head
    assert all(torch.equal(ours[name], theirs[name]) for name in of_head)
    assert families.num_parameters(part) < families.num_parameters(source)


@each_family
@each_head
def test_what_belongs_to_a_head_is_what_a_bare_body_lacks(family, head, tmp_path: Path):
    """transformers decides: what it makes anew for a checkpoint of the body alone."""
    families.encoder(tiny_masked_lm(family)).save_pretrained(tmp_path)
    model_class = family.task_heads[head].model_class
    model, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    made_anew = set(info["missing_keys"])
    assert made_anew == {name for name in model.state_dict() if families.is_of_head(model, name)}


# The table


def test_models_of_the_table_are_told_apart_by_their_type():
    for model_type, family in FAMILIES.items():
        assert model_type == family.model_type == family.config_class().model_type
        assert set(family.task_heads) == set(HEADS)
        classes = [family.masked_lm, *(head.model_class for head in family.task_heads.values())]
        assert {one.config_class for one in classes} == {family.config_class}
        made = with_weights(family.masked_lm, tiny_masked_lm(family).config)
        assert families.family_of(made) is families.family_of(made.config) is family
        assert families.is_masked_lm(made)
        names = {one.__name__ for one in classes[1:]}
        assert family.head_classes == names
