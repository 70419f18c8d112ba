"""`distilcli schema`: the JSON schema of experiments and suites, on standard output."""

from distilcli.cli.console import Console
from distilcli.config.schema import settings_schema
from distilcli.files.json_text import to_json


def run(kind: str | None, console: Console) -> None:
    """Print one schema: for people with line breaks, for programs as one line."""
    schema = settings_schema(kind)
    for line in to_json(schema, indent=2).splitlines():
        console.say(line)
    console.result(schema)
