"""A token store that is not as it was written is noticed, named and repaired, or told in words."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from accelerate.state import AcceleratorState
from tiny_experiments import TinyWorld, listing
from token_stores import data_config, random_texts, tiny_tokenizer
from typer.testing import CliRunner, Result

from distilcli.cli.app import app
from distilcli.config.data import DataConfig
from distilcli.corpus.input_files import changed_file
from distilcli.corpus.manifest import Manifest
from distilcli.corpus.prepare import finished_store, is_prepared, prepare
from distilcli.corpus.store import TokenStore, read_manifest
from distilcli.errors import DataError, DataLostError
from distilcli.files.file_values import FileValues

TOKENIZER = tiny_tokenizer()


@pytest.fixture
def data(tmp_path) -> DataConfig:
    """A finished store of several shards in each split."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(t.replace("\n", " ") for t in random_texts(300)), encoding="utf-8")
    config = data_config(tmp_path / "store", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilcli.corpus.prepare.MIB", 4096)
        prepare(config.model_copy(update={"shard_mib": 1}), TOKENIZER, 1)
        yield config.model_copy(update={"shard_mib": 1})


def shards(data: DataConfig) -> list[Path]:
    return sorted(Path(data.store).glob("*/shard-*.arrow"))


def flip_bit(path: Path, position: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


# Bytes of the Arrow files


def test_every_byte_of_a_shard_is_under_its_digest(data):
    TokenStore.open(Path(data.store), by_content=True)
    path = shards(data)[1]
    content = path.read_bytes()
    for position in range(0, len(content), len(content) // 41):
        flip_bit(path, position, 1 << position % 8)
        with pytest.raises(DataError, match="damaged") as error:
            TokenStore.open(Path(data.store), by_content=True)
        assert str(path) in error.value.message
        assert "Run distilcli prepare again" in error.value.hint
        assert finished_store(data, TOKENIZER) is None
        path.write_bytes(content)
    TokenStore.open(Path(data.store), by_content=True)


def test_prepare_makes_the_damaged_shards_anew_and_no_other(data):
    before = {path: path.read_bytes() for path in shards(data)}
    manifest = read_manifest(Path(data.store))
    damaged = [shards(data)[0], shards(data)[-1]]
    for path in damaged:
        flip_bit(path, path.stat().st_size // 2)
    times = listing(Path(data.store))
    prepare(data, TOKENIZER, 1)
    assert finished_store(data, TOKENIZER) is not None
    assert {path: path.read_bytes() for path in shards(data)} == before
    assert read_manifest(Path(data.store)) == manifest
    after = listing(Path(data.store))
    untouched = [path for path in shards(data) if path not in damaged]
    # A shard is of both splits: only those of the same number are written again.
    numbers = {path.name for path in damaged}
    for path in untouched:
        if path.name not in numbers:
            name = str(path.relative_to(data.store))
            assert after[name] == times[name]


MANIFEST_EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a count": lambda tree: tree["train"].update(tokens=1),
    "token counts": lambda tree: tree["token_counts"].__setitem__(5, 10**6),
    "vocabulary": lambda tree: tree.update(vocab_size=3, token_counts=[1, 2, 3]),
    "a digest": lambda tree: tree["digests"]["train"].__setitem__(0, "0" * 32),
    "a negative": lambda tree: tree["token_counts"].__setitem__(5, -1),
    "a type": lambda tree: tree.update(vocab_size="many"),
    "a fraction": lambda tree: tree["train"].update(tokens=1.5),
    "a missing key": lambda tree: tree.pop("shards"),
    "an unknown key": lambda tree: tree.update(colour="red"),
    "one shard less": lambda tree: tree["shards"]["train"].pop(),
    "a list": lambda tree: tree.update(train=[]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANIFEST_EDITS)
def test_an_edited_manifest(data, name):
    """One error; `prepare` writes it again as it was."""
    path = Path(data.store) / "manifest.json"
    whole = path.read_bytes()
    tree = json.loads(whole)
    MANIFEST_EDITS[name](tree)
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json: damaged \(") as error:
        TokenStore.open(Path(data.store))
    assert "\n" not in error.value.message
    assert not is_prepared(data, TOKENIZER)
    prepare(data, TOKENIZER, 1)
    assert finished_store(data, TOKENIZER) is not None
    assert json.loads(path.read_bytes()) == json.loads(whole)


def without_digests(data: DataConfig) -> Path:
    """The store as the version before wrote it."""
    path = Path(data.store) / "manifest.json"
    tree = json.loads(path.read_bytes())
    for key in ("digests", "stamps", "seal"):
        del tree[key]
    for split in ("train", "held_out"):
        del tree[split]["digest"]
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def rewrite(path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change token ids in an Arrow file, which stays as long as it was."""
    with pa.OSFile(str(path)) as file:
        column = pa.ipc.open_stream(file).read_all().column("input_ids")
    values = column.chunks[0].values.to_numpy()
    found = path.read_bytes().index(values.tobytes())
    changed = values.copy()
    change(changed)
    content = path.read_bytes()
    end = found + changed.nbytes
    path.write_bytes(content[:found] + changed.tobytes() + content[end:])


@pytest.mark.parametrize("token", [-1, len(TOKENIZER), 2**31 - 1])
def test_ids_outside_of_the_vocabulary(data, token):
    """Of a store without digests, where only the ids themselves show it."""
    without_digests(data)
    path = shards(data)[2]
    rewrite(path, lambda values: values.__setitem__(7, token))
    with pytest.raises(DataError) as error:
        TokenStore.open(Path(data.store), by_content=True)
    assert error.value.message == (
        f"{path}: damaged (token id {token} in a vocabulary of {len(TOKENIZER)})"
    )


@pytest.mark.slow
def test_a_changed_layout_without_a_digest_does_not_end_the_process(data):
    """Arrow follows what the header of a file says to wherever that is."""
    without_digests(data)
    path = shards(data)[0]
    content = path.read_bytes()
    for position in range(320, 1000):
        flip_bit(path, position, 1 << position % 8)
        with contextlib.suppress(DataError):
            TokenStore.open(Path(data.store), by_content=True)
        path.write_bytes(content)


def test_a_store_of_the_version_before_is_used(data):
    path = without_digests(data)
    assert not TokenStore.open(Path(data.store), by_content=True).has_digests
    assert is_prepared(data, TOKENIZER)
    content = path.read_bytes()
    prepare(data, TOKENIZER, 1)
    assert path.read_bytes() == content
    tree = json.loads(content)
    path.write_text(json.dumps(tree | {"vocab_size": 3}), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest.json: damaged"):
        read_manifest(Path(data.store))


def test_a_shard_record_that_was_edited_is_made_anew(data):
    """Its counts go into the manifest the next time that one is written."""
    [first, *_] = sorted((Path(data.store) / "shards").iterdir())
    whole = first.read_bytes()
    tree = json.loads(whole)
    tree["token_counts"][0] += 1
    first.write_text(json.dumps(tree), encoding="utf-8")
    before = read_manifest(Path(data.store))
    (Path(data.store) / "manifest.json").unlink()
    prepare(data, TOKENIZER, 1)
    assert json.loads(first.read_bytes()) == json.loads(whole)
    assert read_manifest(Path(data.store)) == before


# Cut short while it is used


def test_a_shard_that_is_cut_short_while_it_is_used_is_told(data):
    """Memory-mapped it would end the process (SIGBUS)."""
    store = TokenStore.open(Path(data.store))
    last = len(store.train) - 1
    expected = store.train.tokens(last).tolist()
    path = max(path for path in shards(data) if path.parent.name == "train")
    content = path.read_bytes()
    os.truncate(path, 100)
    with pytest.raises(DataLostError) as error:
        store.train.tokens(last)
    assert error.value.exit_code == 1
    assert error.value.message.startswith(f"{path}: cut short: 0 bytes instead of ")
    assert error.value.message.endswith(", while it was being read")
    assert error.value.hint == "Run distilcli prepare again, then go on with --resume."
    path.write_bytes(content)
    assert store.train.tokens(last).tolist() == expected


def test_a_shard_that_is_gone_before_it_is_first_read(data):
    store = TokenStore.open(Path(data.store))
    path = shards(data)[0]
    path.unlink()
    split = store.held_out if path.parent.name == "held_out" else store.train
    with pytest.raises(DataLostError, match=r"No such file .* while it was being read"):
        split.tokens(0)


def test_many_files_need_few_descriptors(tmp_path, monkeypatch):
    from distilcli.files import file_values as file_values

    monkeypatch.setattr(file_values._descriptors, "_most", 3)
    file_values._descriptors._open.clear()
    files = []
    for index in range(10):
        path = tmp_path / f"{index}.bin"
        np.arange(index, index + 20, dtype=np.int32).tofile(path)
        files.append(FileValues(path, 80, 0, 20, np.int32, (), ""))
    for _ in range(2):
        for index, values in enumerate(files):
            assert values[3:6].tolist() == [index + 3, index + 4, index + 5]
    assert len(file_values._descriptors._open) == 3
    rows = FileValues(tmp_path / "0.bin", 80, 8, 6, np.int32, (3,), "")
    assert rows[1:3].tolist() == [[5, 6, 7], [8, 9, 10]]
    assert rows[2:2].shape == (0, 3)


# The text


@pytest.mark.parametrize("keep_time", [False, True])
def test_an_edit_that_keeps_the_size_is_noticed(data, keep_time):
    [path] = [Path(file) for file in data.sources[0].files]
    status = path.stat()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("a", "b", 1), encoding="utf-8")
    if keep_time:  # as `cp -p`, `touch -r` or an archive would set it
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert not is_prepared(data, TOKENIZER)
    assert is_prepared(data, TOKENIZER, by_content=False)
    with pytest.raises(DataError, match=f"made from other input: {path} has changed since"):
        prepare(data, TOKENIZER, 1)


def test_the_same_text_written_again_is_the_same(data, monkeypatch):
    """Times differ, as in a copy: then the content is read, once per process."""
    from distilcli.corpus import input_files

    [path] = [Path(file) for file in data.sources[0].files]
    content = path.read_bytes()
    path.write_bytes(content)
    assert path.stat().st_size == len(content)
    reads = []
    real = input_files.file_digest
    monkeypatch.setattr(input_files, "file_digest", lambda path: reads.append(path) or real(path))
    manifest = read_manifest(Path(data.store))
    for _ in range(3):
        assert changed_file(data, manifest) is None
    assert reads == [path]


def test_text_that_changes_while_it_is_read(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    lines = [line.replace("\n", " ") for line in random_texts(50)]
    text.write_text("\n".join(lines), encoding="utf-8")
    config = data_config(tmp_path / "store", text)

    def touch(_progress: object) -> None:
        text.write_text("\n".join(lines).replace("a", "b", 1), encoding="utf-8")

    with pytest.raises(DataError, match=f"{text}: has changed while it was being read"):
        prepare(config, TOKENIZER, 1, touch)
    assert not is_prepared(config, TOKENIZER)
    prepare(config, TOKENIZER, 1)
    assert finished_store(config, TOKENIZER) is not None


# The commands


@pytest.fixture
def world(tiny_world: TinyWorld, tmp_path, monkeypatch) -> Iterator[TinyWorld]:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    shutil.copytree(tiny_world.root, tmp_path / "world", ignore=shutil.ignore_patterns("store"))
    own = TinyWorld(tmp_path / "world")
    own.write_config(own.config)
    assert invoke("prepare", own).exit_code == 0
    yield own
    AcceleratorState._reset_state(reset_partial_state=True)


def invoke(command: str, world: TinyWorld, *more: str) -> Result:
    name, *options = command.split()
    result = CliRunner().invoke(app, [name, *more, "--config", str(world.config), *options])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.slow
def test_every_command_that_reads_the_store_names_the_damaged_file(world):
    [path] = (world.store / "train").glob("*.arrow")
    flip_bit(path, path.stat().st_size // 2)
    teacher = str(world.teacher)
    for command, more in [
        ("train", []),
        ("train --dry-run", []),
        ("init-student", []),
        ("eval", [teacher]),
    ]:
        result = invoke(command, world, *more)
        assert result.exit_code == 2, command
        [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert line == f"error: {path}: damaged (its content has changed since it was written)"
        assert "Run distilcli prepare again: it makes anew what is not whole." in result.stderr
        assert not (world.root / "runs").exists()
    repaired = invoke("prepare", world, "--num-proc=1")
    assert repaired.exit_code == 0, repaired.stderr
    assert f"warning: {path}: damaged" in repaired.stderr
    assert "what is damaged is made anew" in repaired.stderr
    assert "already prepared" in invoke("prepare", world).stderr


@pytest.mark.slow
def test_the_store_of_a_run_is_cut_short_while_it_trains(world, monkeypatch):
    """A message and exit code 1; what was reached before can be gone on from."""
    from distilcli.cli import train

    [path] = (world.store / "train").glob("*.arrow")
    content = path.read_bytes()

    class CuttingLog(train.TrainingLog):
        def metrics(self, record: dict[str, Any], total_steps: int) -> None:
            super().metrics(record, total_steps)
            if record["step"] == 9:
                os.truncate(path, 1000)

    monkeypatch.setattr(train, "TrainingLog", CuttingLog)
    result = invoke("train", world)
    assert result.exit_code == 1
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {path}: cut short: ")
    assert "Run distilcli prepare again, then go on with --resume." in result.stderr
    monkeypatch.undo()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    path.write_bytes(content)
    resumed = invoke("train --resume", world)
    assert resumed.exit_code == 0, resumed.stderr
    assert "resumed after step 8 of 24" in resumed.stderr


@pytest.mark.slow
def test_a_store_without_digests_is_trained_on_with_a_warning(world):
    path = world.store / "manifest.json"
    tree = json.loads(path.read_bytes())
    for key in ("digests", "stamps", "seal"):
        del tree[key]
    path.write_text(json.dumps(tree), encoding="utf-8")
    assert Manifest.model_validate_json(path.read_bytes()).digests is None
    result = invoke("train", world, "train.max_steps=1")
    assert result.exit_code == 0, result.stderr
    assert f"warning: {world.store}: made before token stores had digests" in result.stderr
