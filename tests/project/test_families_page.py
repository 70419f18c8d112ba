"""The page about models names every family, its student and what is refused, as they are."""

import re
from pathlib import Path

import pytest
from tiny_families import tiny_config, with_weights
from transformers import BertModel, ElectraForPreTraining

from distilcli.errors import ModelError
from distilcli.models.families import FAMILIES, student_family
from distilcli.models.families.refused import REFUSED
from distilcli.models.loading import load_masked_lm

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "families.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_family_is_there_with_its_student() -> None:
    found = [row[:2] + row[3:4] for row in rows("Families")]
    expected = []
    for model_type, family in FAMILIES.items():
        student = student_family(family)
        fewer = " with fewer layers" if student is family else ""
        expected.append([f"`{model_type}`", family.name, f"{student.a_name}{fewer}"])
    assert found == expected


def test_what_is_refused_is_there() -> None:
    named = {name for row in rows("What cannot be used") for name in re.findall("`(.+?)`", row[0])}
    assert named == {*REFUSED, "gpt2", "llama"}


@pytest.mark.parametrize(
    ("model_class", "family", "name"),
    [
        (BertModel, "bert", "my-sentence-encoder"),
        (ElectraForPreTraining, "electra", "my-discriminator"),
    ],
)
def test_errors_are_quoted_as_they_are(model_class, family, name, tmp_path, monkeypatch) -> None:
    with_weights(model_class, tiny_config(FAMILIES[family])).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as refusal:
        load_masked_lm(name)
    error = refusal.value
    assert f"```text\nerror: {error.message}\n{error.hint}\n```\n" in PAGE
