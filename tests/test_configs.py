"""Every experiment that ships is valid, is named after its file and says how to run it."""

from pathlib import Path

import pytest

from distilcli import config, experiment_file, schema

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
EXPECTED = {
    "builtin-student",
    "builtin-teacher",
    "distilbert-base-cased",
    "distilbert-base-multilingual-cased",
    "distilbert-base-uncased",
    "quickstart",
    "reactions",
}

each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def header_of(path: Path) -> list[str]:
    """The comment lines that the file begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def test_the_promised_experiments_ship() -> None:
    assert {path.stem for path in CONFIGS} >= EXPECTED
    assert [path.name for path in (ROOT / "configs").iterdir() if path not in CONFIGS] == []


@each_config
def test_config_loads(path: Path) -> None:
    experiment = experiment_file.load(path)
    assert experiment.name == path.stem


@each_config
def test_config_survives_dump_and_load(path: Path, tmp_path: Path) -> None:
    experiment = experiment_file.load(path)
    copy = tmp_path / "experiment.yaml"
    copy.write_text(experiment_file.dump(experiment), encoding="utf-8")
    assert experiment_file.load(copy) == experiment


@each_config
def test_header_gives_the_command_and_what_it_needs(path: Path) -> None:
    header = header_of(path)
    assert header[0] == f"distilcli train --config configs/{path.name}"
    assert any(line.startswith("Needs ") for line in header)


@each_config
def test_paths_are_relative(path: Path) -> None:
    experiment = experiment_file.load(path)
    held_out = experiment.data.held_out_sources or []
    names = [experiment.data.store, experiment.output_dir]
    for source in [*experiment.data.sources, *held_out]:
        if isinstance(source, config.FilesSource):
            names += source.files
    assert not [name for name in names if name.startswith(("/", "~", "../"))]


@each_config
def test_header_overrides_are_valid(path: Path) -> None:
    """What a header offers as `key.sub=value` is accepted, each line by itself."""
    for line in header_of(path):
        words = [word for word in line.rstrip("\\").split() if "=" in word and "." in word]
        overrides = [word for word in line.rstrip("\\").split() if "=" in word] if words else []
        if overrides:
            experiment_file.load(path, overrides)


@pytest.mark.parametrize("name", ["distilbert-base-uncased", "distilbert-base-cased"])
def test_the_paper_run_has_the_release_settings(name: str) -> None:
    experiment = experiment_file.load(ROOT / "configs" / f"{name}.yaml")
    loss, optim = experiment.loss, experiment.optim
    assert (loss.temperature, loss.alpha_ce, loss.alpha_mlm, loss.alpha_cos) == (2.0, 5.0, 2.0, 1.0)
    assert (optim.lr, optim.betas, optim.eps) == (5e-4, (0.9, 0.98), 1e-6)
    assert (optim.warmup_fraction, optim.max_grad_norm, optim.weight_decay) == (0.05, 5.0, 0.0)
    assert experiment.masking.smoothing == 0.7
    assert experiment.train.global_batch_size == 4000
    assert experiment.train.num_epochs == 3


def test_builtin_files_of_the_configs_ship() -> None:
    for path in CONFIGS:
        for source in experiment_file.load(path).data.sources:
            if isinstance(source, config.FilesSource):
                builtin = [f for f in source.files if f.startswith(schema.BUILTIN_PREFIX)]
                assert all(Path(schema.resolve_path(name)).is_file() for name in builtin)
