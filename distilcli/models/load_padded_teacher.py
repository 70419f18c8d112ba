"""Loading a teacher with a tokenizer of its own: its reader, and its classes among the task's."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.config.models import TaskTeacherModel
from distilcli.errors import ConfigError, ModelError, shortened
from distilcli.models.own_tokens import (
    HypothesisReader,
    Reader,
    TextReader,
    WindowReader,
    WordReader,
)
from distilcli.models.padded import (
    begins_after_padding,
    load_padded,
    longest_text,
    num_embeddings,
)
from distilcli.models.padded_teacher import PaddedTeacher
from distilcli.tasks.classes import places_of, same_classes
from distilcli.tasks.labels import class_key
from distilcli.tasks.task import OpenTask
from distilcli.text.tokenizer_checks import check_tokens
from distilcli.text.tokenizers import load_tokenizer

_READERS: dict[str, type[TextReader | WordReader | WindowReader]] = {
    "sequence": TextReader,
    "token": WordReader,
    "span": WindowReader,
}


def load_padded_teacher(
    teacher: TaskTeacherModel, task: OpenTask, key: str, max_length: int | None
) -> PaddedTeacher:
    """A teacher that reads a task's texts itself, in fp32 and eval mode.

    Args:
        teacher: its section.
        task: that it is fine-tuned on, or has classes of.
        key: its dotted place in the experiment.
        max_length: tokens of a text, or of a pair, at most, if it is fine-tuned.

    Raises:
        ConfigError: its hypotheses are of other classes than the task's, or too long; or so is a
            question.
        ModelError: it or its tokenizer cannot be loaded, it has no head for this task or other
            classes, or gives other outputs where it is padded.
    """
    role = key if key == "teacher" else f"{key}.model"
    where = f"{role} {teacher.model}"
    model = load_padded(teacher.model, teacher.revision, task.head, role)
    tokenizer = load_tokenizer(teacher.model, teacher.revision, needs=("pad_token",))
    check_tokens(tokenizer, num_embeddings(model), where)
    _check_padding(model, tokenizer, where)
    longest = longest_text(model, tokenizer)
    columns = None
    reader: Reader
    if teacher.is_zero_shot:
        reader = _hypothesis_reader(teacher, task, model, tokenizer, longest, key, where)
    else:
        if task.head == "sequence" and max_length is not None:
            longest = min(max_length, longest or max_length)
        columns = columns_of(output_names(model.config, where), task, where)
        reader = _READERS[task.head](tokenizer, longest)
        if isinstance(reader, WindowReader):
            _check_questions(reader, task, where)
    found = PaddedTeacher(model, tokenizer, task.head, reader, columns)
    found.check_padding(task.dev.shown, where)
    return found


def _check_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, where: str) -> None:
    """Give a model that does not say its padding that of its tokenizer; refuse another one."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if begins_after_padding(model) and model.config.pad_token_id != tokenizer.pad_token_id:
        raise ModelError(
            f"{where}: its pad_token_id is {model.config.pad_token_id}, but {tokenizer.pad_token} "
            f"of its tokenizer has the id {tokenizer.pad_token_id}",
            "Its positions begin after padding: use the tokenizer that was saved with the model.",
        )


def _check_questions(reader: WindowReader, task: OpenTask, where: str) -> None:
    """Refuse questions that leave no room for a context among the tokens that a model takes."""
    found = reader.without_room([*task.train.shown, *task.dev.shown])
    if found is None:
        return
    question, tokens = found
    raise ConfigError(
        f"{where}: it takes {reader.longest} tokens, and its tokenizer makes {tokens} of the "
        f"question {shortened(repr(question), 60)} alone, which leaves none for a context",
        "Lower task.max_question_length, or use a teacher that takes longer texts.",
    )


def output_names(config: object, where: str) -> list[str]:
    """Names of a model's outputs, in their order.

    Raises:
        ModelError: its config.json does not number them from 0.
    """
    names: dict[int, object] = getattr(config, "id2label", None) or {}
    if sorted(names) != list(range(len(names))):
        raise ModelError(
            f"{where}: id2label in its config.json numbers the outputs "
            f"{', '.join(map(str, sorted(names)))}",
            f"Number them from 0 to {len(names) - 1}, in the order of the outputs.",
        )
    return [str(names[index]) for index in range(len(names))]


def columns_of(names: Sequence[str], task: OpenTask, where: str) -> list[int] | None:
    """Which output each class of the task is, by its name; None: all are in their order.

    Outputs without names are taken as they come, and so are those of a task that knows its classes
    by numbers alone.

    Args:
        names: of the outputs.
        task: with its classes.
        where: opens the message.

    Raises:
        ModelError: there are more or fewer, or others.
    """
    labels = task.labels
    if len(names) != len(labels):
        raise ModelError(
            f"{where}: its head has {len(names)} outputs, the task needs {len(labels)}",
            "Use a model of this very task.",
        )
    if task.head == "span" or len(labels) == 1:
        return None
    if same_classes(names, labels):
        columns = places_of(labels, names)
        return None if columns == list(range(len(names))) else columns
    numbers = [str(index) for index in range(len(names))]
    generic = [f"LABEL_{index}" for index in range(len(names))]
    if list(names) == generic or list(labels) in (numbers, generic):
        return None
    raise ModelError(
        f"{where}: its classes are {', '.join(names[:8])}, the task's are {', '.join(labels[:8])}",
        "Use a teacher that was fine-tuned on this task. If its classes mean the same, give them "
        "the names of the rows, in id2label of its config.json.",
    )


def _hypothesis_reader(
    teacher: TaskTeacherModel,
    task: OpenTask,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    longest: int | None,
    key: str,
    where: str,
) -> HypothesisReader:
    names = [class_key(name) for name in output_names(model.config, where)]
    entailing = [i for i, name in enumerate(names) if name.startswith("entail")]
    against = [i for i, name in enumerate(names) if name.startswith("contradict")]
    # Models of two outputs have what does not follow as one.
    against = against or [i for i, name in enumerate(names) if "entail" in name[1:]]
    section = "hypothesis" if teacher.hypothesis else "hypotheses"
    opposite = against[0] if against and not task.outputs.of_one_class else None
    needed = 1 if task.outputs.of_one_class else 2
    if len(entailing) != 1 or len(entailing) + len(against) < needed:
        raise ModelError(
            f"{where}: its outputs are {', '.join(names[:8])}; for {key}.{section} one must be "
            "called entailment" + (needed == 2) * ", and another one contradiction",
            "Use a model of natural language inference, or name them in id2label of its "
            "config.json.",
        )
    sentences = hypotheses_of(teacher, task.labels, key)
    reader = HypothesisReader(tokenizer, longest, sentences, entailing[0], opposite)
    if reader.room is not None and reader.room < 1:
        raise ConfigError(
            f"{key}.{section}: with the longest of them nothing of a text fits into the {longest} "
            f"tokens that {teacher.model} takes",
            "Write shorter ones.",
        )
    return reader


def hypotheses_of(teacher: TaskTeacherModel, labels: Sequence[str], key: str) -> list[str]:
    """The hypothesis of each class.

    Raises:
        ConfigError: they are of other classes, or classes are numbers that no sentence can say.
    """
    if teacher.hypothesis is not None:
        if all(name.isdigit() or name.startswith("LABEL_") for name in labels):
            raise ConfigError(
                f"{key}.hypothesis: the classes are {', '.join(labels[:8])}, and such names say "
                "nothing in a sentence",
                f"Write a sentence for each: {key}.hypotheses={{{labels[0]}: ..., ...}}",
            )
        return [teacher.hypothesis.replace("{}", name) for name in labels]
    assert teacher.hypotheses is not None, "one of the two says that it is zero-shot"
    if not same_classes(list(teacher.hypotheses), labels):
        raise ConfigError(
            f"{key}.hypotheses: they are of {', '.join(teacher.hypotheses)}; the classes are "
            f"{', '.join(labels[:8])}",
            "Write one for each class of the task.",
        )
    exactly = set(teacher.hypotheses) == set(labels)
    by_class = {
        name if exactly else class_key(name): text for name, text in teacher.hypotheses.items()
    }
    return [by_class[name if exactly else class_key(name)] for name in labels]
