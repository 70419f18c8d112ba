"""`distilcli init-student`: teacher to student, and what became of each layer."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from distilcli.cli.console import Console
from distilcli.cli.smaller_vocabulary import (
    SmallerVocabulary,
    WantedVocabulary,
    costs_in_experiment,
)
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.models import Architecture, CopiedStudent, Student
from distilcli.corpus.store import TokenStore
from distilcli.distillation.held_out_terms import predicts_tokens
from distilcli.distillation.masked_lm_parts import load_teacher, make_student
from distilcli.distillation.measured_text import held_out_text
from distilcli.distillation.run_kind import show_progress
from distilcli.distillation.sample_text import sample_of_files
from distilcli.distillation.tokenization import Tokenization, ensure_store, tokenization_of
from distilcli.errors import ConfigError, DistilError, RunFolderError, either
from distilcli.evaluation.held_out import HeldOutScores
from distilcli.evaluation.result import Result, number, percent
from distilcli.evaluation.text import scores_on_text
from distilcli.files.atomic import recover
from distilcli.files.marks import refuse_foreign
from distilcli.models.checks import check_tokenizer, check_vocabulary
from distilcli.models.copying import adds_token_type, other_epsilon
from distilcli.models.families import (
    MaskedLM,
    encoder_layers,
    family_of,
    is_masked_lm,
    num_parameters,
    num_positions,
    size_mib,
)
from distilcli.models.layers import layer_table, layers_of
from distilcli.models.loading import load_masked_lm
from distilcli.models.narrowing.sizes import sizes_of
from distilcli.models.saving import save_verified
from distilcli.models.students import build_student
from distilcli.text.tokenizers import load_tokenizer
from distilcli.training.folder_checks import check_apart, check_places
from distilcli.training.processes import single_accelerator
from distilcli.training.run_folder import RunFolder


def run(experiment: MaskedLMExperiment, force: bool, console: Console) -> None:
    """Build the student that an experiment describes, in its run folder."""
    check_places(experiment)
    folder = RunFolder(experiment.run_folder)
    _refuse_existing(folder, force)
    teacher = load_teacher(experiment)

    def make(whole: Tokenization) -> TokenStore:
        with console.bar("prepare") as bar:
            return ensure_store(whole, os.cpu_count() or 1, show_progress(bar))

    tokenization = tokenization_of(experiment, make)
    student = make_student(experiment, teacher, tokenization, make)
    quality = _quality(experiment, tokenization, student, teacher, console)
    costs = costs_in_experiment(experiment, tokenization, student)
    # Last, when it has passed every check: the next `train` starts from what lies there.
    with folder.locked(0.0, console.note):
        _refuse_existing(folder, force)  # another process may have begun meanwhile
        save_verified(student, tokenization.tokenizer, folder.initial_student)
    source = None
    if isinstance(experiment.student, CopiedStudent):
        named = experiment.student.source
        source = teacher
        if named is not None:
            source = load_masked_lm(named, needs_head=experiment.loss.asks_for_logits)
    _show(
        student,
        teacher,
        source,
        experiment.student,
        quality,
        folder.initial_student,
        console,
        costs,
    )


def _quality(
    experiment: MaskedLMExperiment,
    tokenization: Tokenization,
    student: MaskedLM,
    teacher: MaskedLM | None,
    console: Console,
) -> dict[str, HeldOutScores]:
    """Held-out scores of student and teacher, as far as there is a token store to measure on."""
    if not tokenization.is_prepared():
        console.note("no prepared token store at hand: held-out quality is not measured")
        return {}
    if not predicts_tokens(experiment, (student, teacher)):
        console.note("without tokens to predict, held-out quality is not measured")
        return {}
    store = tokenization.open_store()
    check_vocabulary(student, store.manifest.vocab_size, "the student")
    if not len(store.held_out):
        return {}
    text = held_out_text(experiment, tokenization)
    asked = {} if teacher is None else {"teacher": (teacher, text.whole or text)}
    asked |= {"student": (student, text)}
    accelerator = single_accelerator()
    return {
        name: scores_on_text(
            f"the {name}",
            model,
            None,
            own,
            accelerator,
            experiment.validation.num_sequences,
            experiment.train.tokens_per_micro_batch,
        )
        for name, (model, own) in asked.items()
    }


def run_without_experiment(
    teacher_name: str,
    output: Path,
    layers: str | None,
    num_layers: int | None,
    strategy: str | None,
    architecture: str | None,
    widths: dict[str, int | None],
    vocabulary: WantedVocabulary,
    force: bool,
    console: Console,
) -> None:
    """Copy a student from a teacher into a folder."""
    try:
        settings = _copied_student(layers, num_layers, strategy, architecture, widths)
        vocabulary = vocabulary.beside_other_uses(of_text=settings.is_computed)
        vocabulary.check()
        _copy(teacher_name, output, settings, vocabulary, force, console)
    except DistilError as error:
        raise error.reworded(_AS_OPTIONS) from error


_LONGEST = 512  # tokens of a sequence of --text that a narrower student is made by
# What a setting is called where there are only options.
_AS_OPTIONS = {
    "student.num_layers": "--num-layers",
    "student.layers": "--layers",
    "student.architecture": "--architecture",
    "student.hidden_size": "--hidden-size",
    "student.num_heads": "--num-heads",
    "student.intermediate_size": "--intermediate-size",
    "student.vocabulary.keep": "--vocabulary",
    "--text.0.files:": "--text:",
    "--text.0.format:": "--text:",
    "Set it to text, jsonl, csv, tsv or parquet.": "Name it .txt, .jsonl, .csv, .tsv or .parquet.",
}


def _copy(
    teacher_name: str,
    output: Path,
    settings: CopiedStudent,
    wanted: WantedVocabulary,
    force: bool,
    console: Console,
) -> None:
    check_apart({"--output": output}, {"--teacher": teacher_name})
    if settings.is_computed and not wanted.text:
        raise ConfigError(
            "student.hidden_size, student.num_heads and student.intermediate_size need text: "
            "what is kept of the teacher's widths is decided by what it computes",
            "Name some that it knows, a few hundred lines or more: --text FILE.",
        )
    recover(output)
    _refuse_existing_student(output, force)
    tokenizer = load_tokenizer(teacher_name)
    teacher = load_masked_lm(teacher_name)
    check_tokenizer(teacher, tokenizer, f"teacher {teacher_name}")
    vocabulary = None if wanted.is_all else SmallerVocabulary(tokenizer, wanted, console)
    longest = min(num_positions(teacher.config), _LONGEST)
    size = teacher.config.vocab_size
    student = build_student(
        settings,
        teacher,
        seed=0,
        sequences=lambda: sample_of_files(wanted.text, "--text", tokenizer, size, longest),
    )
    costs = None
    if vocabulary is not None:
        student, tokenizer = vocabulary.trimmed(student), vocabulary.tokenizer
        costs = vocabulary.costs(student)
    save_verified(
        student, tokenizer, output, lambda folder: _refuse_existing_student(folder, force)
    )
    _show(student, teacher, teacher, settings, {}, output, console, costs)


def _refuse_existing(folder: RunFolder, force: bool) -> None:
    if folder.has_run:
        raise RunFolderError(
            f"{folder.root}: training has begun here; its student is not replaced",
            "Choose another name=..., or train with --force to start again.",
        )
    _refuse_existing_student(folder.initial_student, force)


def _refuse_existing_student(folder: Path, force: bool) -> None:
    """Refuse what is there, and with `force` what this tool did not write."""
    refuse_foreign(folder)
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(f"{folder}: exists and is not empty", "Replace it with --force.")


def _copied_student(
    layers: str | None,
    num_layers: int | None,
    strategy: str | None,
    architecture: str | None,
    widths: dict[str, int | None],
) -> CopiedStudent:
    if layers is not None and strategy is not None:
        raise ConfigError("--layers and --strategy cannot be used together")
    chosen: object = strategy or "alternate"
    if layers is not None:
        chosen = [int(word) if word.strip().isdecimal() else word for word in layers.split(",")]
    if architecture not in (None, *get_args(Architecture)):
        known = either(get_args(Architecture))
        raise ConfigError(f"--architecture {architecture}: not an architecture", f"Use {known}.")
    settings = {"layers": chosen, "architecture": architecture or "auto", "num_layers": num_layers}
    settings |= widths
    try:
        return CopiedStudent.model_validate(settings)
    except ValidationError:
        if layers is not None:
            message = f"--layers {layers}: not a list of layer numbers such as 0,2,4"
        else:
            message = f"--strategy {strategy}: not alternate, spread, top or bottom"
        raise ConfigError(message) from None


def _show(
    student: MaskedLM,
    teacher: MaskedLM | None,
    source: MaskedLM | None,
    settings: Student,
    quality: dict[str, HeldOutScores],
    folder: Path,
    console: Console,
    vocabulary: Result | None = None,
) -> None:
    indices = None
    if source is not None and isinstance(settings, CopiedStudent):
        indices = layers_of(source, settings)
        adds_type = adds_token_type(family_of(source), family_of(student))
        table = layer_table(indices, adds_type, is_masked_lm(student))
        console.table("layers", ["student", "<- teacher"], table)
        console.say(f"{_shape(student)}, copied from {_shape(source)}")
        if sizes_of(student.config) != sizes_of(source.config):
            console.say(f"{_widths(student)}, cut from {_widths(source)}")
        reason = other_epsilon(source.config)
        if reason is not None and settings.architecture == "auto":
            console.note(f"{reason}, so the student is {family_of(student).a_name}, too")
    models = {"student": student} if teacher is None else {"teacher": teacher, "student": student}
    if vocabulary is not None:
        console.show_to_people(vocabulary)
    columns = ["model", "parameters", "MB"]
    rows = [[name, f"{num_parameters(m):,}", f"{_megabytes(m):.1f}"] for name, m in models.items()]
    if quality:
        columns += ["held-out loss", "accuracy"]
        by_character = vocabulary is not None  # else the loss by tokens says as much
        columns += by_character * ["loss a character"]
        for row in rows:
            scores = quality[row[0]]
            row += [number(scores.loss), percent(scores.accuracy)]
            row += by_character * [number(scores.loss_per_character)]
    console.table("student at start", columns, rows)
    smaller = None
    if teacher is not None:
        smaller = 1 - num_parameters(student) / num_parameters(teacher)
        console.say(f"{percent(smaller)} smaller than the teacher, by parameters")
    console.say(f"saved, loaded again and run once: {folder}")
    console.result(
        {
            "student": str(folder),
            "layers": indices,
            "architecture": family_of(student).model_type,
            "sizes": sizes_of(student.config)._asdict(),
            "parameters": {name: num_parameters(model) for name, model in models.items()},
            "megabytes": {name: _megabytes(model) for name, model in models.items()},
            "smaller": smaller,
            "held_out": {name: asdict(scores) for name, scores in quality.items()},
            "vocabulary": None if vocabulary is None else vocabulary.record,
        }
    )


def _shape(model: MaskedLM) -> str:
    """What a model is, in words."""
    depth = len(encoder_layers(model))
    return f"{family_of(model).name} with {depth} layer{'s' * (depth > 1)}"


def _widths(model: MaskedLM) -> str:
    """How wide a model is, in words."""
    sizes = sizes_of(model.config)
    heads = f"{sizes.num_heads} head{'s' * (sizes.num_heads > 1)} of {sizes.head_size}"
    return f"hidden states of {sizes.hidden_size}, {heads}, inner states of {sizes.inner_size}"


def _megabytes(model: MaskedLM) -> float:
    return size_mib(model) * 2**20 / 1e6
