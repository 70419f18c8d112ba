"""Settings files and overrides that are hostile, or only damaged: one message, at once."""

from pathlib import Path

import pytest

from distilcli.config import reading, yaml_tree
from distilcli.config.yaml_tree import parse_yaml, read_yaml
from distilcli.errors import ConfigError

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 40)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 40)
)
LADDER = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "line 1: nested more than 50 deep"),
        ("{a: " * 100_000, "line 1: nested more than 50 deep"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), "nested more than 50 deep"),
        ("? " * 10_000 + "a", "nested more than 50 deep"),
        (LAUGHS, "more than 100,000 entries, aliases counted in"),
        (MERGES, "more than 100,000 entries, aliases counted in"),
        (LADDER, "nested more than 50 deep"),
        ("a: &a [*a]", "an alias stands inside what it names"),
        ("a: &a {b: *a}", "an alias stands inside what it names"),
        ("a: *b", "found undefined alias"),
        (f"a: {'9' * 5000}", "not YAML (Exceeds the limit"),
        ("a: 0x" + "f" * 5000, None),
        ("a: 1_000:99:99999999999", None),
        ("? [a, b]\n: 1", "found unhashable key"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!binary 'x'", "failed to decode base64 data"),
        ("a: !!timestamp 'x'", "not YAML"),
        ("a: !!int 'x'", "not YAML"),
        ("a\x00b", "not YAML (unacceptable character #x0000"),
        ("", "the file is empty; expected keys and values"),
        ("- a", "expected keys and values (name: ..., teacher: ...)"),
    ],
)
def test_a_hostile_file_is_one_error_that_names_it(
    tmp_path: Path, text: str, message: str | None
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text, encoding="utf-8")
    if message is None:
        assert set(read_yaml(path)) == {"a"}
        return
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert len(caught.value.message) < 600


def test_aliases_that_people_write_are_read() -> None:
    tree = parse_yaml("base: &base {lr: 1, wd: 2}\nown: {<<: *base, wd: 3}\nlist: [*base, *base]")
    assert tree["own"] == {"lr": 1, "wd": 3}
    assert tree["list"] == [{"lr": 1, "wd": 2}] * 2


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_yaml(path) == {"name": "x"}


def test_what_is_no_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"/dev/zero: larger than 4 MiB"):
        read_yaml(Path("/dev/zero"))
    with pytest.raises(ConfigError, match=r"cannot be read .*embedded null"):
        read_yaml(Path("a\x00b"))
    (tmp_path / "closed.yaml").write_text("name: x")
    refuse = PermissionError(13, "Permission denied", "closed.yaml")
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(refuse))
    with pytest.raises(ConfigError, match=r"closed\.yaml: cannot be read .*Permission denied"):
        read_yaml(tmp_path / "closed.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (".".join("a" * 10_000) + "=1", "no key is more than 50 deep"),
        ("x=" + "[" * 10_000, "the value is not YAML (nested more than 50 deep)"),
        ("x=" + "{a: " * 10_000, "the value is not YAML (nested more than 50 deep)"),
        ("x=" + "9" * 10_000, "the value is not YAML (Exceeds the limit"),
        ("x=a\x00b", "the value is not YAML (unacceptable character"),
        ("seed=" + "9" * 4000, "seed: must be at most 4,294,967,295 (given: 99"),
        ("name=" + "/" * 100, "name: must be letters"),
        ("name=" + "a" * 4000, "name: must be of 180 characters at most"),
    ],
)
def test_a_hostile_override_is_one_short_error(override: str, message: str) -> None:
    tree = {"name": "x", "teacher": {"model": "m"}}
    tree["data"] = {"sources": [{"files": "f", "documents": "line"}], "store": "s"}
    kind = reading.kind_of_experiment
    with pytest.raises(ConfigError) as caught:
        reading.build(tree, [override], kind, Path("own.yaml"))
    assert message in caught.value.message
    assert caught.value.message.startswith("override ")
    assert len(caught.value.message) < 700


def test_the_limit_of_a_file_is_above_any_settings() -> None:
    """The largest file that ships is far below what is refused."""
    configs = Path(__file__).resolve().parents[2] / "configs"
    assert max(path.stat().st_size for path in configs.rglob("*.yaml")) * 100 < yaml_tree._MAX_BYTES
