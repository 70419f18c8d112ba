"""What a run took, and how it was made: cost, machine, versions, fingerprints, settings."""

from typing import Any

import yaml

from distilcli.report.blocks import Block, Code, Grid
from distilcli.report.run_facts import RunFacts
from distilcli.report.series import length_of
from distilcli.report.words import compact, count, duration

_DIGITS = 16  # of a fingerprint


def cost_blocks(run: RunFacts) -> list[Block]:
    """Time, tokens and the machine."""
    length = length_of(run.all_records)
    environment = run.environment
    rows: list[list[str]] = []
    if length.steps:
        speed = f"{length.tokens / length.seconds:,.0f}" if length.seconds else ""
        rows += [
            ["steps", count(length.steps)],
            ["tokens trained on", count(length.tokens)],
            ["time of training", duration(length.seconds)],
            ["tokens a second", speed],
            ["epochs begun", count(length.epoch)],
        ]
    rows += [[name, value] for name, value in machine_of(environment).items()]
    if not rows:
        return []
    note = "Time of training is that of the steps, with validation and checkpoints between them."
    return [Grid("What training took.", ["", run.name], rows, note if length.steps else "")]


def machine_of(environment: dict[str, Any]) -> dict[str, str]:
    """The machine, as environment.json has it."""
    found: dict[str, str] = {}
    devices = environment.get("cuda_devices") or []
    if devices:
        names = [f"{d.get('name')} ({d.get('memory_gib')} GiB)" for d in devices]
        found["GPUs"] = ", ".join(names)
    if environment.get("cpu"):
        cores, threads = environment.get("cpu_cores_usable"), environment.get("cpu_threads")
        found["CPU"] = f"{environment['cpu']}, {cores} cores, {threads} threads"
    if environment.get("memory_gib"):
        found["memory"] = f"{environment['memory_gib']:g} GiB"
    return found


def made_blocks(run: RunFacts) -> list[Block]:
    """Seed, command, versions, fingerprints and settings."""
    environment = run.environment
    rows = [["seed", compact(run.seed)]] if run.seed is not None else []
    if environment.get("command"):
        rows.append(["command", " ".join(["distilcli", *environment["command"][1:]])])
    for key, name in (
        ("distilcli", "distilcli"),
        ("distilcli_commit", "commit of distilcli"),
        ("commit", "commit of the working folder"),
        ("python", "Python"),
        ("platform", "platform"),
    ):
        if environment.get(key):
            rows.append([name, str(environment[key])])
    packages = environment.get("packages") or {}
    if packages:
        rows.append(["packages", ", ".join(f"{name} {one}" for name, one in packages.items())])
    blocks: list[Block] = []
    if rows:
        blocks.append(Grid("Seed, command and versions.", ["", ""], rows, words=True))
    if run.identity:
        prints = [
            [what, str(one.get("digest"))[:_DIGITS], str(one.get("place"))]
            for what, one in run.identity.items()
            if isinstance(one, dict)
        ]
        columns = ["what the run depends on", "fingerprint", "where it was"]
        caption = f"Fingerprints of what it read: the first {_DIGITS} digits."
        blocks.append(Grid(caption, columns, prints, words=True))
    if run.tree:
        text = yaml.safe_dump(run.tree, sort_keys=False, allow_unicode=True)
        blocks.append(Code("All settings: experiment.yaml", text, "yaml"))
    return blocks
