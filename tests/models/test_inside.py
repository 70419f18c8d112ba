"""What is kept of the inside of a model, in every family, and that nothing else is."""

from copy import deepcopy

import pytest
import torch
from tiny_families import HIDDEN, LAYERS, tiny_masked_lm
from torch import Tensor
from transformers import AttentionInterface

from distilcli.batches.packing import PackedSequences, positions
from distilcli.losses.inside import Place, Shape
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.families import FAMILIES, encoder, family_of
from distilcli.models.inside import Recorder, shape_of
from distilcli.models.placement import offload_layers
from distilcli.models.running import run_encoder

LENGTHS = (4, 5, 4)  # within the window of a local layer
each_family = pytest.mark.parametrize("family", FAMILIES)
STATES = [Place("hidden_states", after) for after in range(LAYERS + 1)]
PROJECTED = [Place(what, layer) for layer in (0, LAYERS - 1) for what in ("query", "key", "value")]


@pytest.fixture
def model(family):
    return tiny_masked_lm(family).double()


@pytest.fixture(scope="module")
def batch() -> PackedSequences:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (1, sum(LENGTHS)), generator=draw)
    position_ids, boundaries = positions(torch.tensor(LENGTHS).numpy())
    return PackedSequences(ids, position_ids, boundaries, LENGTHS, tuple(range(len(LENGTHS))))


def recorded(model, batch: PackedSequences, places: list[Place]) -> dict[Place, Tensor]:
    use_packed_attention(model)
    recorder = Recorder(model, places)
    with torch.no_grad(), recorder.recording() as found:
        run_encoder(model, batch, Packing.of(batch))
    return found


def attended(model, batch: PackedSequences) -> dict[Place, Tensor]:
    """What attention is given in each layer, heads side by side, each sequence run alone."""
    found: dict[Place, list[Tensor]] = {}
    calls: list[object] = []

    def attention(module, query, key, value, mask, *, scaling, **_):
        layer = len(calls)
        calls.append(module)
        for what, states in (("query", query), ("key", key), ("value", value)):
            row = states.transpose(1, 2).flatten(2)[0]
            found.setdefault(Place(what, layer), []).append(row)
        shares = (query @ key.transpose(2, 3) * scaling).softmax(dim=-1)
        return (shares @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("seen", attention)
    model = deepcopy(model)
    model.set_attn_implementation("seen")
    with torch.no_grad():
        for ids in batch.input_ids[0].split(list(batch.lengths)):
            calls.clear()
            encoder(model)(input_ids=ids[None])
    return {place: torch.cat(rows) for place, rows in found.items()}


@each_family
def test_queries_keys_and_values_are_as_projected(family, model, batch):
    expected = attended(model, batch)
    found = recorded(model, batch, PROJECTED)
    assert set(found) == set(PROJECTED)
    rotates = family_of(model).embeddings.positions is None
    firsts = batch.boundaries[:-1].long()
    for place, states in found.items():
        wanted = expected[place]
        if rotates and place.what != "value":
            # Rotated by its position: the first of a sequence not at all, and others are.
            assert not torch.allclose(states, wanted, atol=1e-3)
            states, wanted = states[firsts], wanted[firsts]
        torch.testing.assert_close(states, wanted, rtol=1e-5, atol=1e-6, msg=str(place))
    assert not torch.allclose(found[PROJECTED[0]], found[PROJECTED[1]])


@each_family
def test_hidden_states_end_with_the_last_ones(family, model, batch):
    found = recorded(model, batch, STATES)
    assert list(found) == STATES
    last = run_encoder(model, batch, Packing.of(batch))
    assert torch.equal(found[STATES[-1]], last)
    assert {states.shape for states in found.values()} == {(batch.num_tokens, HIDDEN)}


@each_family
def test_the_shape_of_a_model(family, model):
    radii = (None, 4, 4) if family == "modernbert" else (None,) * LAYERS
    assert shape_of(model) == Shape(num_layers=LAYERS, width=HIDDEN, num_heads=4, radii=radii)


@pytest.mark.parametrize("family", ["bert"])
def test_nothing_is_kept_beyond_a_recording(family, model, batch):
    use_packed_attention(model)
    recorder = Recorder(model, [STATES[1]])
    run_encoder(model, batch, Packing.of(batch))
    with recorder.recording() as found:
        assert found == {}
        run_encoder(model, batch, Packing.of(batch))
        assert list(found) == [STATES[1]]
    run_encoder(model, batch, Packing.of(batch))
    assert found[STATES[1]] is not None
    assert len(found) == 1
    with recorder.recording() as again:
        assert again == {}


@each_family
def test_layers_in_host_memory_are_looked_into(family, model, batch):
    expected = recorded(deepcopy(model), batch, [*STATES, *PROJECTED])
    offload_layers(model.requires_grad_(False), torch.device("cpu"))
    found = recorded(model, batch, [*STATES, *PROJECTED])
    assert list(found) == list(expected)
    for place, states in found.items():
        assert torch.equal(states, expected[place]), place
