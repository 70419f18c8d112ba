"""The image's file is sound: linted, pinned, without root, made of files that are there.

No image is built here; that takes a builder and a registry of images.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "scripts" / "docker" / "Dockerfile"
IGNORED = DOCKERFILE.with_name("Dockerfile.dockerignore")


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction with what follows it, on one line; comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined]


FOUND = instructions(DOCKERFILE.read_text(encoding="utf-8"))


def values(name: str) -> list[str]:
    return [rest for instruction, rest in FOUND if instruction == name]


def stages() -> dict[str, str]:
    """What each stage with a name is made from."""
    pairs = [rest.split(" AS ") for rest in values("FROM")]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def test_hadolint_finds_nothing_to_complain_of() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "it is among the packages of development"
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_notice(tmp_path: Path) -> None:
    """A file without a version or a user is not passed."""
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN pip install torch\n", encoding="utf-8")
    hadolint = str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run([hadolint, bad], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert {"DL3006", "DL3013", "DL3042"} <= set(done.stdout.split())


def test_there_is_a_base_for_each_device_with_a_version() -> None:
    names = stages()
    assert {"base-cpu", "base-cuda"} <= names.keys()
    for image in values("FROM"):
        image = image.partition(" AS ")[0]
        if image not in names and image != "base-${DEVICE}":
            assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w.-]+", image), image
    assert values("ARG")[0] == "DEVICE=cpu"


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    lines = IGNORED.read_text(encoding="utf-8").splitlines()
    sent = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = set()
    for line in values("COPY"):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        if "--from" not in line:
            copied |= set(sources)
    assert copied == set(sent)
    for source in copied:
        assert (ROOT / source).exists(), source
    assert not [name for name in copied if fnmatch(name, "*[*?]*")]


def test_what_is_copied_suffices_to_build_the_package() -> None:
    """The texts that pyproject.toml names, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sent = IGNORED.read_text(encoding="utf-8").splitlines()
    for name in [project["readme"], *project["license-files"], "pyproject.toml", "distilcli"]:
        assert f"!{name}" in sent
    installed = next(line for line in values("RUN") if "'.[" in line)
    extras = re.search(r"'\.\[([\w,]+)\]'", installed)
    assert extras is not None
    assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()


def test_every_package_is_pinned_and_leaves_no_cache() -> None:
    """By constraints.txt, given as an option or for the whole stage."""
    stage, constrained = "", False
    for name, rest in FOUND:
        if name == "FROM":
            stage, constrained = rest, False
        constrained = constrained or (name, rest.partition("=")[0]) == ("ARG", "PIP_CONSTRAINT")
        for command in re.findall(r"\bpip install[^&]*", rest) if name == "RUN" else ():
            assert constrained or "--constraint /opt/constraints.txt" in command, stage
            assert "--no-cache-dir" in command
        if name == "RUN" and "apt-get install" in rest:
            assert "rm -rf /var/lib/apt/lists/*" in rest
            wanted = shlex.split(rest.partition("apt-get install")[2].partition("&&")[0])
            packages = [word for word in wanted if not word.startswith("--")]
            assert packages
            assert [package for package in packages if "=" not in package] == []


def test_the_last_stage_runs_the_command_as_no_root() -> None:
    last = FOUND[max(i for i, (name, _) in enumerate(FOUND) if name == "FROM") :]
    users = [rest for name, rest in last if name == "USER"]
    assert users
    assert int(users[-1]) > 0
    assert ("ENTRYPOINT", '["distilcli"]') in last
    # What is copied into the last stage afterwards would belong to that user.
    assert last.index(("USER", users[-1])) > max(
        i for i, (name, _) in enumerate(last) if name in {"COPY", "RUN"}
    )


@pytest.mark.parametrize("name", ["ADD", "MAINTAINER", "VOLUME", "ONBUILD"])
def test_instructions_that_are_not_used(name: str) -> None:
    """ADD may fetch what nobody pinned, and a VOLUME piles up on the host."""
    assert values(name) == []


def test_every_cache_is_in_a_folder_that_any_user_may_write_to() -> None:
    (line,) = values("ENV")
    settings = dict(word.split("=", 1) for word in shlex.split(line))
    caches = {name for name in settings if name != "PATH"}
    assert {"XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR"} <= caches
    for name in caches:
        assert settings[name].split("/")[1] == "cache"
    assert any("install --directory --mode 1777 /cache" in rest for rest in values("RUN"))
