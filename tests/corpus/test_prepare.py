"""Making a token store: in several processes, killed and gone on with, grown and mended."""

import os
import shutil
import subprocess
import sys

import pytest
from corpus_files import assert_same_files
from kill_points import kill_points
from token_stores import data_config

import distilcli.corpus.prepare as corpus
from distilcli.corpus.prepare import is_prepared, prepare
from distilcli.corpus.shards import ShardWriter
from distilcli.corpus.store import TokenStore
from distilcli.errors import DataError, DistilError, WriteError


@pytest.mark.slow
def test_number_of_processes_changes_nothing(tmp_path, tokenizer, text_file, small_shards):
    source = [{"files": [str(text_file)]}]
    seen = []
    for num_proc in (1, 2):
        data = data_config(tmp_path / str(num_proc), sources=source)
        prepare(data, tokenizer, num_proc, seen.append)
    assert_same_files(tmp_path / "1", tmp_path / "2")
    assert seen[-1] == seen[len(seen) // 2 - 1]
    assert seen[-1].bytes_read == seen[-1].total_bytes == text_file.stat().st_size
    assert seen[-1].documents == 150


@pytest.mark.parametrize("before", [None, "true"])
def test_one_process_is_one_core(tmp_path, tokenizer, text_file, monkeypatch, before):
    """Tokenizers would start a thread for every core."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if before is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
    write, found = ShardWriter.write, set()

    def noting(self, shard):
        found.add(os.environ.get("TOKENIZERS_PARALLELISM"))
        return write(self, shard)

    monkeypatch.setattr(ShardWriter, "write", noting)
    prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    assert found == {"false"}
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_killed_prepare_goes_on(tmp_path, tokenizer, text_file, small_shards, monkeypatch):
    prepare(data_config(tmp_path / "whole", text_file), tokenizer, 1)
    data = data_config(tmp_path / "s", text_file)
    written = []
    write = ShardWriter.write

    def dies_at_third(self, shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.index)
        return write(self, shard)

    monkeypatch.setattr(ShardWriter, "write", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, tokenizer, 1)
    with pytest.raises(DataError, match="an unfinished token store"):
        TokenStore.open(tmp_path / "s")
    assert not is_prepared(data, tokenizer)
    monkeypatch.setattr(ShardWriter, "write", write)
    seen = []
    prepare(data, tokenizer, 1, seen.append)
    assert seen[-1].skipped_shards == 2 < seen[-1].shards
    assert_same_files(tmp_path / "whole", tmp_path / "s")


def test_what_a_kill_leaves_is_cleared_and_holds_nobody_to_its_settings(
    tmp_path, tokenizer, text_file, monkeypatch
):
    """One killed at every change of the file system; a shard, if there is one, is kept."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it takes the longest
    lines = text_file.read_text().splitlines(keepends=True)
    text_file.write_text("".join(lines[:20]))
    data, other = (data_config(tmp_path / "s", text_file, max_length=n) for n in (16, 32))
    for length in (16, 32):
        whole = data_config(tmp_path / f"whole-{length}", text_file, max_length=length)
        prepare(whole, tokenizer, 1)
    taken = []

    def begin_anew() -> None:
        shutil.rmtree(tmp_path / "s", ignore_errors=True)

    for _ in kill_points(lambda: prepare(data, tokenizer, 1), begin_anew, monkeypatch):
        has_shard = (tmp_path / "s/shards/shard-00000.json").exists()
        taken.append(not has_shard)
        if has_shard:
            with pytest.raises(DataError, match="max_length was 16, is 32"):
                prepare(other, tokenizer, 1)
        prepare(data if has_shard else other, tokenizer, 1)
        assert_same_files(tmp_path / f"whole-{16 if has_shard else 32}", tmp_path / "s")
        assert not list((tmp_path / "s").rglob(".*.distilcli-writing"))
    assert taken == sorted(taken, reverse=True)
    assert {True, False} == set(taken)


def test_what_was_begun_goes_on_with_other_sources(
    tmp_path, tokenizer, text_file, small_shards, monkeypatch
):
    """As after a bad file, which is taken out of the sources; the whole shards are kept."""
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(DataError, match="bad"):
        prepare(data_config(tmp_path / "s", text_file, tmp_path / "bad.jsonl"), tokenizer, 1)
    seen = []
    prepare(data_config(tmp_path / "s", text_file), tokenizer, 1, seen.append)
    assert seen[-1].skipped_shards == seen[-1].shards > 1
    prepare(data_config(tmp_path / "whole", text_file), tokenizer, 1)
    assert_same_files(tmp_path / "whole", tmp_path / "s")


def test_shards_of_text_that_is_gone_do_not_stay(tmp_path, tokenizer, text_file, small_shards):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    (tmp_path / "s/manifest.json").unlink()
    lines = text_file.read_text().splitlines(keepends=True)
    text_file.write_text("".join(lines[:40]))
    (tmp_path / "s/train/mine.arrow").touch()
    prepare(data, tokenizer, 1)
    assert (tmp_path / "s/train/mine.arrow").exists()
    (tmp_path / "s/train/mine.arrow").unlink()
    prepare(data_config(tmp_path / "whole", text_file), tokenizer, 1)
    assert_same_files(tmp_path / "whole", tmp_path / "s")


@pytest.mark.parametrize(
    "error", [OSError(28, "full"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_call_that_came_to_nothing_leaves_nothing(
    tmp_path, tokenizer, text_file, monkeypatch, error
):
    def fail(*_):
        raise error

    monkeypatch.setattr(ShardWriter, "write", fail)
    with pytest.raises((WriteError, KeyboardInterrupt)) as raised:
        prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    assert getattr(raised.value, "exit_code", 1) == 1
    assert not (tmp_path / "s").exists()


def test_settings_of_another_program_are_no_store(tmp_path, tokenizer, text_file):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/settings.json").write_text('{"editor.fontSize": 12}')
    with pytest.raises(DataError, match=r"settings\.json: damaged, or not of a token store"):
        prepare(data_config(tmp_path / "s", text_file), tokenizer, 1)
    assert (tmp_path / "s/settings.json").read_text() == '{"editor.fontSize": 12}'


def test_only_what_is_missing_is_made_anew(tmp_path, tokenizer, text_file, small_shards):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    before = (tmp_path / "s/manifest.json").read_bytes()
    (tmp_path / "s/manifest.json").unlink()
    (tmp_path / "s/shards/shard-00001.json").unlink()
    seen = []
    prepare(data, tokenizer, 1, seen.append)
    assert seen[-1].shards - seen[-1].skipped_shards == 1
    assert (tmp_path / "s/manifest.json").read_bytes() == before
    seen.clear()
    prepare(data, tokenizer, 1, seen.append)
    assert seen == []


def test_truncated_file_is_damage_and_is_mended(tmp_path, tokenizer, text_file):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    path = tmp_path / "s/train/shard-00000.arrow"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert not is_prepared(data, tokenizer)
    with pytest.raises(DataError, match=r"shard-00000.arrow: damaged \(\d+ bytes instead of"):
        TokenStore.open(tmp_path / "s")
    prepare(data, tokenizer, 1)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"{}", b"\x00\xff"])
def test_damaged_manifest_is_refused_and_mended(tmp_path, tokenizer, text_file, content):
    data = data_config(tmp_path / "s", text_file)
    prepare(data, tokenizer, 1)
    (tmp_path / "s/manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest.json: damaged"):
        TokenStore.open(tmp_path / "s")
    assert len(prepare(data, tokenizer, 1).train) > 0


def test_good_shards_outlive_a_bad_file(tmp_path, tokenizer, text_file, small_shards):
    bad = tmp_path / "corpus2.jsonl"
    bad.write_text("not JSON\n")
    data = data_config(tmp_path / "s", tmp_path / "corpus*.jsonl")
    with pytest.raises(DataError, match=r"corpus2\.jsonl"):
        prepare(data, tokenizer, 1)
    bad.write_text("")
    skipped = []
    prepare(data, tokenizer, 1, lambda progress: skipped.append(progress.skipped_shards))
    assert skipped[-1] > 3


def dying_worker(*_):
    os._exit(9)


def test_dead_worker_is_an_error_not_a_hang(tmp_path, tokenizer, text_file, monkeypatch):
    monkeypatch.setattr(corpus, "write_in_worker", dying_worker)
    with pytest.raises(DistilError, match="a worker process of prepare died") as caught:
        prepare(data_config(tmp_path / "s", text_file), tokenizer, 2)
    assert caught.value.exit_code == 1  # nothing that was given is wrong


def test_workers_start_without_the_heavy_libraries():
    heavy = {"torch", "transformers", "datasets"}
    code = f"import sys, distilcli.corpus; print({heavy} & {{*sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
