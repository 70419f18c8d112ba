"""Students: layer maps, copies that compute what the teacher computes, and what is built."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import HIDDEN, LAYERS, VOCAB, make_bert, word_tokenizer
from transformers import (
    AutoModelForMaskedLM,
    BertForMaskedLM,
    BertModel,
    DistilBertForMaskedLM,
    DistilBertModel,
    PreTrainedTokenizerFast,
)

from distilcli.config.models import CheckpointStudent, CopiedStudent, RandomStudent
from distilcli.errors import ConfigError, ModelError
from distilcli.models import checks, families, layers, saving, students
from distilcli.models.layers import layer_map

STRATEGIES = ["alternate", "spread", "top", "bottom"]


@pytest.fixture(scope="module")
def teacher() -> BertForMaskedLM:
    return make_bert()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path, teacher: BertForMaskedLM) -> Path:
    teacher.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


# Layer maps


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("alternate", [0, 2, 4, 6, 8, 10]),
        ("spread", [0, 2, 4, 7, 9, 11]),
        ("top", [6, 7, 8, 9, 10, 11]),
        ("bottom", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_layer_map_halves_a_bert_base(strategy, expected):
    assert layer_map(12, 6, strategy) == expected
    assert layer_map(12, None, strategy) == expected


@given(st.sampled_from(STRATEGIES), st.integers(1, 48), st.data())
def test_layer_map_is_strictly_increasing_and_in_range(strategy, num_source, data):
    count = data.draw(st.integers(1, num_source))
    layers = layer_map(num_source, count, strategy)
    assert len(layers) == count
    assert layers == sorted(set(layers))
    assert set(layers) <= set(range(num_source))
    if count == num_source:
        assert layers == list(range(num_source))
    if strategy == "spread" and count >= 2:
        assert (layers[0], layers[-1]) == (0, num_source - 1)


def test_layer_map_of_one_layer_source():
    assert layer_map(1, None, "alternate") == [0]


def test_layer_map_keeps_an_explicit_list_as_it_is():
    assert layer_map(4, None, [3, 0, 0]) == [3, 0, 0]
    assert layer_map(4, 2, [1, 3]) == [1, 3]


@pytest.mark.parametrize(
    ("num_layers", "layers", "message"),
    [
        (5, "alternate", "student.num_layers 5: the source has 4 layers"),
        (0, "top", "student.num_layers 0"),
        (None, [], "student.layers is an empty list"),
        (None, [0, 4], "student.layers: 4 is not a layer of the source, which has 4"),
        (None, [-1], "student.layers: -1"),
        (3, [0, 1], "student.layers lists 2 layers, but student.num_layers is 3"),
    ],
)
def test_layer_map_refuses_the_impossible(num_layers, layers, message):
    with pytest.raises(ConfigError, match=message) as caught:
        layer_map(4, num_layers, layers)
    assert caught.value.hint


def test_layer_table_says_where_every_part_is_from():
    for adds_type in (True, False):
        rows = layers.layer_table([0, 2], adds_type)
        assert rows[1:3] == [("layer 0", "layer 0"), ("layer 1", "layer 2")]
        assert ("token type 0" in rows[0][1]) == adds_type


# Copying


def test_copied_weights_are_the_teachers(teacher):
    student = students.copy_layers(teacher, [1, 3])
    bert, body = teacher.bert, student.distilbert
    pairs = [
        (body.embeddings.word_embeddings, bert.embeddings.word_embeddings),
        (body.embeddings.LayerNorm, bert.embeddings.LayerNorm),
        (student.vocab_transform, teacher.cls.predictions.transform.dense),
        (student.vocab_layer_norm, teacher.cls.predictions.transform.LayerNorm),
        (student.vocab_projector, teacher.cls.predictions.decoder),
    ]
    for layer, source in zip(
        body.transformer.layer, [bert.encoder.layer[1], bert.encoder.layer[3]], strict=True
    ):
        pairs += [
            (layer.attention.q_lin, source.attention.self.query),
            (layer.attention.k_lin, source.attention.self.key),
            (layer.attention.v_lin, source.attention.self.value),
            (layer.attention.out_lin, source.attention.output.dense),
            (layer.sa_layer_norm, source.attention.output.LayerNorm),
            (layer.ffn.lin1, source.intermediate.dense),
            (layer.ffn.lin2, source.output.dense),
            (layer.output_layer_norm, source.output.LayerNorm),
        ]
    for copy, original in pairs:
        for name, weight in original.named_parameters():
            assert torch.equal(copy.get_parameter(name), weight)
    types = bert.embeddings.token_type_embeddings.weight
    assert types[0].abs().min() > 0
    expected = bert.embeddings.position_embeddings.weight + types[0]
    assert torch.equal(body.embeddings.position_embeddings.weight, expected)
    covered = {id(p) for copy, _ in pairs for p in copy.parameters()}
    left = [name for name, p in student.named_parameters() if id(p) not in covered]
    assert left == ["distilbert.embeddings.position_embeddings.weight"]
    assert student.vocab_projector.weight is body.embeddings.word_embeddings.weight


def test_a_copy_shares_no_memory_with_the_teacher(teacher):
    student = students.copy_layers(teacher, [0])
    theirs = {p.data_ptr() for p in teacher.parameters()}
    assert not any(p.data_ptr() in theirs for p in student.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"type_vocab_size": 1},
        {"hidden_act": "relu"},
        {"tie_word_embeddings": False},
        {"layer_norm_eps": 1e-7, "pad_token_id": 5},
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-6)])
def test_a_copy_of_every_layer_is_the_teacher(changes, dtype, tolerance, ids):
    teacher = make_bert(**changes).to(dtype)
    student = students.copy_layers(teacher, list(range(LAYERS)))
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    with torch.inference_mode():
        expected = teacher(ids, attention_mask=mask).logits
        found = student(ids, attention_mask=mask).logits
    assert found.dtype is dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_copy_survives_save_and_plain_reload(teacher, tokenizer, ids, tmp_path):
    student = students.copy_layers(teacher, list(range(LAYERS)))
    saving.save_model(student, tokenizer, tmp_path / "student")
    saving.verify_saved(student, tmp_path / "student")
    reloaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    assert isinstance(reloaded, DistilBertForMaskedLM)
    with torch.inference_mode():
        torch.testing.assert_close(reloaded(ids).logits, teacher(ids).logits, rtol=2e-5, atol=2e-5)


def test_an_untied_decoder_survives_save_and_reload(tokenizer, ids, tmp_path):
    teacher = make_bert(tie_word_embeddings=False)
    student = students.copy_layers(teacher, list(range(LAYERS)))
    assert student.config.tie_word_embeddings is False
    saving.save_model(student, tokenizer, tmp_path / "student")
    saving.verify_saved(student, tmp_path / "student")


@pytest.mark.parametrize("architecture", ["auto", "same", "distilbert"])
@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1.1e-6, 1e-5])
def test_a_copy_is_a_distilbert_where_one_computes_the_same(architecture, eps, ids):
    teacher = make_bert(layer_norm_eps=eps, type_vocab_size=3).double()
    every = list(range(LAYERS))
    if architecture == "distilbert" and eps > 1e-6:
        with pytest.raises(
            ModelError, match=r"student\.architecture=distilbert: the layer_norm_eps"
        ):
            students.copy_layers(teacher, every, architecture)
        return
    student = students.copy_layers(teacher, every, architecture)
    is_bert = architecture == "same" or eps > 1e-6
    assert type(student) is (BertForMaskedLM if is_bert else DistilBertForMaskedLM)
    with torch.inference_mode():
        found, expected = student(ids).logits, teacher(ids).logits
    if is_bert:
        assert torch.equal(found, expected)
        assert (student.config.layer_norm_eps, student.config.type_vocab_size) == (eps, 3)
        assert student.bert.pooler is None
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_random_student_is_what_a_copied_one_would_be(teacher):
    normal, strange = teacher, make_bert(layer_norm_eps=1e-5)
    for source, architecture, model_class in (
        (normal, "auto", DistilBertForMaskedLM),
        (normal, "same", BertForMaskedLM),
        (strange, "auto", BertForMaskedLM),
    ):
        settings = RandomStudent(kind="random", num_layers=1, architecture=architecture)
        assert type(students.build_student(settings, source, seed=0)) is model_class
    settings = RandomStudent(kind="random", architecture="distilbert")
    with pytest.raises(ModelError, match="is 1e-05, and a DistilBERT always uses 1e-12"):
        students.build_student(settings, strange, seed=0)


def test_copying_refuses_positions_that_it_does_not_know():
    teacher = make_bert()
    teacher.config.position_embedding_type = "relative_key"
    with pytest.raises(ModelError, match="position_embedding_type is relative_key"):
        students.copy_layers(teacher, [0])


# Building


def test_copied_student_is_built_as_configured(teacher):
    student = students.build_student(CopiedStudent(layers="top"), teacher, seed=0)
    assert isinstance(student, DistilBertForMaskedLM)
    assert student.config.n_layers == 2
    assert not student.training
    assert torch.equal(
        student.distilbert.transformer.layer[1].ffn.lin1.weight,
        teacher.bert.encoder.layer[3].intermediate.dense.weight,
    )


def test_copied_student_from_a_source_of_its_own(saved):
    student = students.build_student(CopiedStudent(source=str(saved), layers=[0]), None, seed=0)
    assert student.config.n_layers == 1


def test_layers_of_a_distilbert_make_a_smaller_one(teacher):
    """Copied twice they are those that were copied once."""
    distilbert = students.copy_layers(teacher, [0, 1, 3])
    student = students.build_student(CopiedStudent(layers=[0, 2]), distilbert, seed=0)
    expected = students.copy_layers(teacher, [0, 3])
    assert type(student) is type(expected)
    assert student.config.n_layers == 2
    assert saving.first_difference(student, expected) is None


def test_an_untied_decoder_stays_one_in_a_copy_of_the_same_class():
    """Its weights are its own, and no weight asks for a gradient that nothing gives it."""
    teacher = make_bert(tie_word_embeddings=False)
    distilbert = students.copy_layers(teacher, [0, 1, 2])
    student = students.copy_layers(distilbert, [1])
    assert student.config.tie_word_embeddings is False
    assert torch.equal(student.vocab_projector.weight, teacher.cls.predictions.decoder.weight)
    words = student.get_input_embeddings().weight
    assert torch.equal(words, teacher.get_input_embeddings().weight)


def test_random_student_depends_on_its_seed_alone(teacher):
    before = torch.random.get_rng_state()
    build = lambda seed: students.build_student(RandomStudent(), teacher, seed)  # noqa: E731
    first, other = build(3), build(4)
    torch.rand(5)
    again = build(3)
    torch.random.set_rng_state(before)
    build(3)
    students.copy_layers(teacher, [0])
    assert torch.equal(before, torch.random.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.vocab_transform.weight, other.vocab_transform.weight)
    assert (first.config.n_layers, first.config.dim) == (LAYERS // 2, HIDDEN)


def test_random_student_needs_only_the_configuration_of_its_model(saved):
    (saved / "model.safetensors").unlink()
    student = students.build_student(RandomStudent(like=str(saved), num_layers=6), None, seed=0)
    assert (student.config.n_layers, student.config.vocab_size) == (6, VOCAB)


def test_random_student_like_a_distilbert(teacher):
    like = students.copy_layers(teacher, [0, 1, 2, 3])
    student = students.build_student(RandomStudent(), like, seed=0)
    assert (student.config.n_layers, student.config.hidden_dim) == (2, 48)


def test_checkpoint_student_is_the_checkpoint(saved, teacher):
    student = students.build_student(CheckpointStudent(model=str(saved)), None, seed=0)
    assert isinstance(student, BertForMaskedLM)
    for name, weight in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], weight)


@pytest.mark.parametrize("model_class", [BertModel, DistilBertModel])
def test_new_head_around_a_bare_body(model_class, teacher, tmp_path):
    distilbert = students.copy_layers(teacher, [0, 1]).distilbert
    body = make_bert(BertModel) if model_class is BertModel else distilbert
    body.save_pretrained(tmp_path / "body")
    with pytest.raises(ModelError, match="no masked-LM head") as caught:
        students.build_student(CheckpointStudent(model=str(tmp_path / "body")), None, seed=0)
    assert "new_head=true" in caught.value.hint
    section = CheckpointStudent(model=str(tmp_path / "body"), new_head=True)
    before = torch.random.get_rng_state()
    student, again = (students.build_student(section, None, seed=5) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    found = families.encoder(student).state_dict()
    for name, weight in body.state_dict().items():
        assert name.startswith("pooler.") or torch.equal(found[name], weight)
    decoder = families.decoder(student)
    assert decoder.weight is student.get_input_embeddings().weight
    assert not decoder.bias.any()
    hidden = torch.randn(6, HIDDEN)
    features = families.head_features(student, hidden)
    assert torch.equal(features, families.head_features(again, hidden))
    assert features.isfinite().all()
    assert features.std() > 0.1


def test_new_head_leaves_a_head_that_is_there(saved, teacher):
    section = CheckpointStudent(model=str(saved), new_head=True)
    student = students.build_student(section, None, seed=0)
    dense = "cls.predictions.transform.dense.weight"
    assert torch.equal(student.get_parameter(dense), teacher.get_parameter(dense))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_dropout_overrides_reach_config_and_modules(kind, teacher, tmp_path):
    if kind == "bert":
        teacher.save_pretrained(tmp_path)
        section = CheckpointStudent(model=str(tmp_path), dropout=0.3, attention_dropout=0.2)
        student = students.build_student(section, None, seed=0)
        names = "hidden_dropout_prob", "attention_probs_dropout_prob"
        per_layer = 2
    else:
        section = CopiedStudent(num_layers=4, dropout=0.3, attention_dropout=0.2)
        student = students.build_student(section, teacher, seed=0)
        names = "dropout", "attention_dropout"
        per_layer = 1
    assert [getattr(student.config, name) for name in names] == [0.3, 0.2]
    values = [m.p for m in student.modules() if isinstance(m, torch.nn.Dropout)]
    assert values.count(0.2) == LAYERS
    assert values.count(0.3) == 1 + per_layer * LAYERS == len(values) - LAYERS


def test_dropout_is_the_teachers_unless_said(teacher):
    student = students.build_student(CopiedStudent(dropout=0.0), teacher, seed=0)
    assert (student.config.dropout, student.config.attention_dropout) == (0.0, 0.1)
    assert teacher.config.hidden_dropout_prob == 0.1


# What fits together


def test_check_pair(teacher):
    """Student and teacher need one vocabulary, and not one width."""
    checks.check_pair(students.copy_layers(teacher, [0]), teacher)
    checks.check_pair(make_bert(hidden_size=16), teacher)
    with pytest.raises(ModelError, match="has 98 tokens, the teacher's 97"):
        checks.check_pair(make_bert(vocab_size=98), teacher)


def test_padding_matters_where_positions_begin_after_it(teacher, tokenizer, monkeypatch):
    """Of a BERT any id will do: nothing is computed from it."""
    teacher.config.pad_token_id = 1
    checks.check_tokenizer(teacher, tokenizer, "teacher x")
    shifted = replace(families.FAMILIES["bert"], starts_after_padding=True)
    monkeypatch.setitem(families.FAMILIES, "bert", shifted)
    with pytest.raises(ModelError, match=r"teacher x: its pad_token_id is 1, but \[PAD\].* id 0"):
        checks.check_tokenizer(teacher, tokenizer, "teacher x")
    teacher.config.pad_token_id = 0
    checks.check_tokenizer(teacher, tokenizer, "teacher x")
    with pytest.raises(ModelError, match="its vocabulary has 96 tokens"):
        checks.check_tokenizer(make_bert(vocab_size=96), tokenizer, "teacher x")


def test_fewer_positions_where_they_begin_after_padding(monkeypatch):
    """A padding of 3 leaves 36 of 40 positions for tokens."""
    model = make_bert(pad_token_id=3)
    shifted = replace(families.FAMILIES["bert"], starts_after_padding=True)
    monkeypatch.setitem(families.FAMILIES, "bert", shifted)
    checks.check_length(model, 36)
    with pytest.raises(ModelError, match=r"data.max_length 37 is over the 36 positions"):
        checks.check_length(model, 37)


def test_check_length(teacher):
    """Sequences may be as long as the teacher has positions, no longer."""
    checks.check_length(teacher, 40)
    with pytest.raises(ModelError, match=r"data.max_length 41 is over the 40 positions"):
        checks.check_length(teacher, 41)
