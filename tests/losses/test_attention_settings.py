"""What the terms on attention are told, and what they make of it."""

import pytest
from loss_settings import weights

from distilcli.config.losses import LossConfig, TaskLossConfig
from distilcli.losses.attention_distributions import AttentionDistributions
from distilcli.losses.attention_relations import AttentionRelations, default_relation_heads
from distilcli.losses.inside import Shape
from distilcli.losses.table import MASKED_LM_TERMS, TASK_TERMS, wanted_terms

STUDENT, TEACHER = (Shape(depth, 96, 4, (None,) * depth) for depth in (3, 12))


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [
        (768, 768, 48),  # as MiniLMv2 has it, for students of 768 and of 384
        (384, 768, 48),
        (1024, 1024, 64),
        (384, 1024, 64),
        (256, 768, 32),  # 48 do not divide 256
        (192, 256, 16),
        (100, 256, 4),
        (12, 16, 1),
        (3, 4, 1),
    ],
)
def test_relation_heads_where_nobody_says_how_many(student, teacher, heads):
    assert default_relation_heads(student, teacher) == heads
    assert student % heads == teacher % heads == 0


@pytest.mark.parametrize(
    ("config", "table"), [(LossConfig, MASKED_LM_TERMS), (TaskLossConfig, TASK_TERMS)]
)
def test_they_are_off_by_default_and_told_their_settings(config, table):
    assert config().weights["attention_relations"] == 0
    assert config().weights["attention_distributions"] == 0
    section = {"weight": 2.0, "relations": ["value", "key"], "teacher_layer": 10}
    loss = config.model_validate({"attention_relations": section})
    [term] = [t for t in wanted_terms(table, loss, True) if isinstance(t, AttentionRelations)]
    assert term.weight == 2.0
    assert [(*pair.student, *pair.teacher) for pair in term.places(STUDENT, TEACHER)] == [
        ("value", 2, "value", 9),
        ("key", 2, "key", 9),
    ]


@pytest.mark.parametrize(
    ("layers", "compared"),
    [
        ("last", [(2, 11)]),
        ("uniform", [(0, 3), (1, 7), (2, 11)]),
        ([1, None, 6], [(0, 0), (2, 5)]),
    ],
)
def test_which_layers_attention_is_compared_in(layers, compared):
    loss = LossConfig.model_validate(weights(attention_distributions=1.0))
    section = {"weight": 1.0, "layers": layers}
    loss = LossConfig.model_validate({"attention_distributions": section})
    terms = wanted_terms(MASKED_LM_TERMS, loss, True)
    [term] = [term for term in terms if isinstance(term, AttentionDistributions)]
    places = term.places(STUDENT, TEACHER)
    assert [(*pair.student, *pair.teacher) for pair in places] == [
        (what, ours, what, theirs)
        for ours, theirs in compared
        for what in ("attention_query", "attention_key")
    ]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("attention_relations", {"relations": []}, "at least 1 item"),
        ("attention_relations", {"relations": ["key", "key"]}, "each may be there once"),
        ("attention_relations", {"relations": ["hidden"]}, "'query', 'key' or 'value'"),
        ("attention_relations", {"num_heads": 0}, "greater than 0"),
        ("attention_relations", {"teacher_layer": 0}, "greater than 0"),
        ("attention_distributions", {"layers": [0]}, "greater than 0"),
        ("attention_distributions", {"layers": [None]}, "no layer is named"),
        ("attention_distributions", {"layers": "first"}, "must be last, uniform or a list"),
        ("attention_distributions", {"distance": "cosine"}, "'kl' or 'mse'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        LossConfig.model_validate({name: {"weight": 1.0, **settings}})
