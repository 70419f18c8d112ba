"""`distilcli new`: a commented experiment or suite to start from.

The templates are files that are valid as they are, for a file called `mine.yaml`; a task's has its
beginning in `KIND.yaml` and goes on as `task_models.yaml`, which all tasks share.
"""

import os
import re
import shlex
from pathlib import Path

from distilcli.cli.console import Console
from distilcli.cli.options import TASK_TEMPLATES
from distilcli.config.yaml_tree import parse_yaml
from distilcli.errors import ConfigError, printable
from distilcli.files.atomic import unwritten, write_atomically
from distilcli.files.json_text import to_json

_FOLDER = Path(__file__).parent / "templates"
_NAME, _FILE = "mine", "mine.yaml"


def run(kind: str, file: Path, console: Console) -> None:
    """Write the file and say what to type next.

    Raises:
        ConfigError: something is there already, or the file cannot be written.
    """
    if os.path.lexists(file):
        raise ConfigError(f"{file}: already exists", "Choose another file name.")
    text = template(kind, file)
    try:
        write_atomically(file, text)
    except OSError as error:
        hint = "Choose a folder that you may write to."
        raise unwritten(f"{file}:", error, ConfigError, hint) from error
    commands = next_commands(kind, file)
    console.say(f"wrote {file}")
    console.say("Next, from the folder that its paths begin in:")
    for command in commands:
        console.say(f"  {command}")
    console.result({"file": str(file), "kind": kind, "next": commands})


def template(kind: str, file: Path) -> str:
    """The text of one of `TEMPLATES` for a file: its name is the run's, as far as it can be."""
    text = (_FOLDER / f"{kind}.yaml").read_text(encoding="utf-8")
    if kind in TASK_TEMPLATES:
        text += (_FOLDER / "task_models.yaml").read_text(encoding="utf-8")
    text = text.replace(_FILE, printable(shlex.quote(str(file))))  # it stands in a comment
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("._-")[:100] or _NAME
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) and parse_yaml(name) == name
    quoted = name if is_plain else to_json(name)  # YAML would take 2024 or yes for something else
    text = re.sub(rf"^name: {_NAME}\b", f"name: {quoted}", text, flags=re.MULTILINE)
    return re.sub(rf"\bdata/{_NAME}\b", f"data/{name}", text)


def next_commands(kind: str, file: Path) -> list[str]:
    """What to type once the file says what it should."""
    path = shlex.quote(str(file))
    if kind == "suite":
        return [f"distilcli suite {path} --seeds 1"]
    return [
        f"distilcli prepare --config {path}",
        f"distilcli train --config {path} --dry-run",
        f"distilcli train --config {path}",
    ]
