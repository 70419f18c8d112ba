"""Whether models, their vocabularies and their lengths fit together, before anything is run."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.models.families import MaskedLM, family_of, num_positions
from distilcli.text.tokenizer_checks import check_tokens


def check_pair(
    student: MaskedLM,
    teacher: MaskedLM,
    hidden_terms: Sequence[str],
    num_kept: int | None = None,
) -> None:
    """Refuse a pair whose outputs cannot be compared.

    Args:
        student: its logits and hidden states are compared with
        teacher: the teacher's.
        hidden_terms: names of the loss terms on hidden states, whose widths must then agree.
        num_kept: tokens of the teacher that the student has, where it has a part; None: all.

    Raises:
        ModelError: other vocabulary sizes, or other hidden sizes where there is such a term.
    """
    sizes = student.config.vocab_size, num_kept or teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the student's vocabulary has {sizes[0]} tokens, the teacher's {sizes[1]}",
            "Distillation compares logits token by token: both need the same tokenizer.",
        )
    check_widths(student, teacher, hidden_terms)


def check_widths(
    student: PreTrainedModel, teacher: PreTrainedModel, hidden_terms: Sequence[str]
) -> None:
    """Refuse a pair whose hidden states a loss term would compare in vain.

    Args:
        student: its hidden states are compared with
        teacher: the teacher's.
        hidden_terms: names of the loss terms that do so; with none every pair fits.

    Raises:
        ModelError: other hidden sizes.
    """
    widths = student.config.hidden_size, teacher.config.hidden_size
    if hidden_terms and widths[0] != widths[1]:
        key = f"loss.{hidden_terms[0]}"
        raise ModelError(
            f"{key}: the student's hidden size is {widths[0]}, the teacher's {widths[1]}",
            f"Set {key}.weight=0, or use a student of the teacher's width.",
        )


def check_length(model: MaskedLM, max_length: int) -> None:
    """Refuse sequences longer than the model has positions.

    Raises:
        ModelError: data.max_length is over the positions that the model has for tokens.
    """
    positions = num_positions(model.config)
    if max_length > positions:
        raise ModelError(
            f"data.max_length {max_length} is over the {positions} positions of "
            f"{model.config.name_or_path or 'the model'}",
            f"Set data.max_length to {positions} or less.",
        )


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, where: str) -> None:
    """Refuse a model that does not have the tokens of its tokenizer, or takes another for padding.

    Args:
        model: reads what the tokenizer gives.
        tokenizer: of its texts.
        where: names the model, and opens the message.

    Raises:
        ModelError: a token has no embedding; or positions begin after padding, and the padding is
            another: they would be other positions than those the model was trained with.
    """
    check_tokens(tokenizer, model.config.vocab_size, where)
    padding = model.config.pad_token_id
    if family_of(model).starts_after_padding and padding != tokenizer.pad_token_id:
        raise ModelError(
            f"{where}: its pad_token_id is {padding}, but {tokenizer.pad_token} of the tokenizer "
            f"of {tokenizer.name_or_path} has the id {tokenizer.pad_token_id}",
            "Its positions begin after padding: use the tokenizer that was saved with the model.",
        )


def check_vocabulary(model: MaskedLM, vocab_size: int, name: str) -> None:
    """Refuse a model that has no embedding for some token of a store.

    Args:
        model: the model.
        vocab_size: of the store's tokenizer.
        name: what the model is called in a message.

    Raises:
        ModelError: its vocabulary is smaller than the store's.
    """
    if model.config.vocab_size < vocab_size:
        raise ModelError(
            f"{name}: its vocabulary of {model.config.vocab_size} is smaller than the token "
            f"store's of {vocab_size}",
            "Use the model that the store's tokenizer belongs to, or prepare another data.store.",
        )
