"""Which run an export is of."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from distilcli.errors import ConfigError
from distilcli.files.shown_paths import shown_path, shown_text
from distilcli.models.weights import digest_of_model
from distilcli.report.exports import RECORD, Export, read_export
from distilcli.report.run_facts import RunFacts

Digest = Callable[[Path], str | None]


def with_exports(runs: Sequence[RunFacts], exports: Sequence[Export]) -> list[RunFacts]:
    """Give each export to the run, or the stage of a run, whose student it was made of.

    That is told by the weights of the student, and by the name of the experiment where a run has
    no student any more. Exports that lie in the folder of a run are found there.

    Raises:
        ConfigError: an export is of none of these runs.
    """
    digest = functools.cache(lambda root: digest_of_model(root / "student"))
    named = [one.root.resolve() for one in exports]
    found = [_with_those_inside(run, named, digest) for run in runs]
    for export in exports:
        owner = _owner(export, found, digest)
        found = [_given(run, owner, export) for run in found]
    return found


def _with_those_inside(run: RunFacts, named: Sequence[Path], digest: Digest) -> RunFacts:
    """A run with the exports in its folder that are of its student, and likewise its stages."""
    problems, own = list(run.problems), []
    for path in sorted(run.root.glob(f"*/{RECORD}")):
        if path.parent.resolve() in named:
            continue
        try:
            export = read_export(path.parent)
        except ConfigError as error:
            problems.append(f"An export is not shown: {shown_text(error.message)}.")
            continue
        if _is_of(export, run, digest):
            own.append(export)
        else:
            problems.append(
                f"The export {path.parent.name} is not shown: it was made of another student than "
                "the one that lies here now."
            )
    stages = [_with_those_inside(stage, named, digest) for stage in run.stages]
    return replace(run, problems=problems, exports=own, stages=stages)


def _is_of(export: Export, run: RunFacts, digest: Digest) -> bool:
    own = digest(run.root)
    if own is not None and export.weights is not None:
        return export.weights == own
    return export.experiment is not None and export.experiment == run.name


def _owner(export: Export, runs: Sequence[RunFacts], digest: Digest) -> Path:
    """The folder of the run or stage that an export is of."""
    candidates = [one for run in runs for one in (run, *run.stages)]
    owners = [one for one in candidates if export.weights and export.weights == digest(one.root)]
    owners = owners or [one for one in candidates if _is_of(export, one, digest)]
    if owners:  # copies of one student are told apart by their names
        return next((one for one in owners if one.name == export.experiment), owners[0]).root
    where = shown_path(str(export.root))
    earlier = next((run for run in runs if run.name == export.experiment), None)
    if earlier is not None:
        raise ConfigError(
            f"{export.root}: was made of another student of {export.experiment} than the one that "
            f"lies in {earlier.root} now",
            f"Export it again: distilcli export {earlier.shown_root} --output {where}",
        )
    raise ConfigError(
        f"{export.root}: is an export of {export.student}, which is the student of none of the "
        "runs that are named",
        "Name its run, too, or show it alone: distilcli report "
        f"{where} --output {export.root.resolve().name}.html",
    )


def _given(run: RunFacts, owner: Path, export: Export) -> RunFacts:
    stages = [_given(stage, owner, export) for stage in run.stages]
    own = [*run.exports, export] if run.root == owner else run.exports
    return replace(run, exports=own, stages=stages)
