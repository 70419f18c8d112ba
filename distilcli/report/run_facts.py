"""What lies in a run folder, read once and forgivingly: what cannot be read is said, not raised."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilcli.config.reading import load_of_run
from distilcli.config.yaml_tree import read_yaml
from distilcli.errors import DistilError
from distilcli.files.json_text import parse_json
from distilcli.files.paths import BUILTIN_PREFIX, resolve_path
from distilcli.files.shown_paths import shown_path, shown_text, shown_tree, shown_words
from distilcli.report.exports import Export
from distilcli.report.model_facts import ModelFacts, facts_of_model
from distilcli.training.run_folder import RunFolder

TEACHER_CONFIGURATION = "teacher.model configuration"


@dataclass(frozen=True)
class RunFacts:
    """One run, as far as its folder tells; paths in it are as others may see them.

    Attributes:
        root: its folder.
        tree: its settings, defaults included; of several stages those of all.
        settings: the same of the run itself: of several stages those of the last one.
        environment: machine and versions.
        identity: fingerprints, each with a place and a digest.
        records: of each step, as metrics.jsonl has them.
        results: what `eval` measured; None: nothing.
        scores: what a suite wrote beside its student; None: nothing.
        teacher: the teacher's shape; None: it cannot be known.
        initial: that of the student before training.
        student: that of the trained student; None: there is none yet.
        stages: the runs of its stages.
        problems: what could not be read, a sentence each.
        exports: of its student; see `export_owners.py`.
    """

    root: Path
    tree: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    identity: dict[str, Any]
    records: list[dict[str, Any]]
    results: dict[str, Any] | None
    scores: dict[str, Any] | None
    teacher: ModelFacts | None
    initial: ModelFacts | None
    student: ModelFacts | None
    stages: "list[RunFacts]" = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the run is called."""
        return str(self.tree.get("name") or self.root.resolve().name)

    @property
    def shown_root(self) -> str:
        """Its folder, as others may see it."""
        return shown_path(str(self.root))

    @property
    def is_finished(self) -> bool:
        """Whether it has trained its student to the end, which may be gone since."""
        written = (self.student, self.results, self.scores)
        return any(one is not None for one in written)

    @property
    def all_records(self) -> list[dict[str, Any]]:
        """Its records, and those of its stages one after the other."""
        return self.records + [record for stage in self.stages for record in stage.records]

    @property
    def label(self) -> str:
        """What it is called in the page of a run that it is a stage of."""
        number, _, name = self.root.name.partition("-")
        return f"Stage {number}: {name}"

    @property
    def last_step(self) -> int:
        """The last step of which there is a record; 0 where there is none."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def task(self) -> str | None:
        """The kind of task that it is on; None: masked-LM training."""
        task = self.settings.get("task")
        return str(task.get("kind")) if isinstance(task, dict) else None

    @property
    def teacher_name(self) -> str | None:
        """The model that it learns from; None: no model."""
        teacher = self.settings.get("teacher")
        return str(teacher["model"]) if isinstance(teacher, dict) and "model" in teacher else None

    @property
    def seed(self) -> Any:
        """What its random numbers come from."""
        return self.settings.get("seed")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return RunFolder(folder).experiment.is_file()


def read_run(root: Path) -> RunFacts:
    """Read a run folder."""
    folder = RunFolder(root)
    problems: list[str] = []
    tree = _tree(folder.experiment, problems)
    identity = _object(folder.identity, problems) or {}
    environment = _object(folder.environment, problems) or {}
    command = environment.get("command")
    if isinstance(command, list):
        environment["command"] = shown_words([str(word) for word in command])
    return RunFacts(
        root=root,
        tree=shown_tree(tree),
        settings=shown_tree(_settings(folder.experiment, tree)),
        environment=environment,
        identity=shown_tree(identity),
        records=_records(folder.metrics, problems),
        results=shown_tree(_object(folder.results, problems)),
        scores=_object(folder.scores, problems),
        teacher=_teacher(identity, folder, tree),
        initial=facts_of_model(folder.initial_student),
        student=facts_of_model(folder.student),
        stages=[read_run(stage.root) for stage in _in_order(folder)],
        problems=problems,
    )


def _in_order(folder: RunFolder) -> list[RunFolder]:
    """The stages by their number, which opens the names of their folders."""

    def number(stage: RunFolder) -> tuple[int, str]:
        first = stage.root.name.partition("-")[0]
        return int(first) if first.isdigit() else 0, stage.root.name

    return sorted((s for s in folder.stage_folders() if is_run(s.root)), key=number)


def _tree(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except DistilError as error:
        problems.append(shown_text(error.message))
        return {}


def _settings(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run by their names of now; as they are where those cannot be found."""
    try:
        return load_of_run(path).model_dump(mode="json")
    except DistilError:
        return tree


def _read(path: Path, problems: list[str], use: Callable[[bytes], Any]) -> Any:
    """What is made of a file; None where it is not there, or where that fails."""
    try:
        return use(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = shown_text(" ".join(str(error).split()))
        problems.append(f"{path.name} cannot be read ({reason})")
        return None


def _object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    def use(content: bytes) -> dict[str, Any]:
        found = parse_json(content)
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
        return found

    found: dict[str, Any] | None = _read(path, problems, use)
    return found


def _records(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The records of steps; a line that a kill has cut short is left out, and said."""
    lines = _read(path, problems, bytes.splitlines) or []
    records, broken = [], 0
    for line in lines:
        try:
            record = parse_json(line)
            record["step"] = int(record["step"])
        except (ValueError, TypeError, LookupError):
            broken += 1
        else:
            records.append(record)
    if broken:
        problems.append(f"{broken} of the {len(lines):,} lines of {path.name} cannot be read")
    return records


def _teacher(
    identity: dict[str, Any], folder: RunFolder, tree: dict[str, Any]
) -> ModelFacts | None:
    """The teacher where it was when the run began, or a built-in one; nothing is fetched."""
    section = tree.get("teacher")
    name = str(section.get("model")) if isinstance(section, dict) else ""
    if name.startswith(BUILTIN_PREFIX):
        return facts_of_model(Path(resolve_path(name)))
    try:
        place = Path(identity[TEACHER_CONFIGURATION]["place"])
    except (LookupError, TypeError):
        return None
    beside = folder.root / place  # of a run that was moved with its teacher
    found = next((one for one in (place, beside) if one.is_file()), None)
    return None if found is None else facts_of_model(found.parent)
