"""Whether models, their vocabularies and their lengths fit together, before anything is run."""

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.models.families import MaskedLM, family_of, num_positions
from distilcli.text.tokenizer_checks import check_tokens


def check_pair(student: MaskedLM, teacher: MaskedLM, num_kept: int | None = None) -> None:
    """Refuse a pair whose logits cannot be compared.

    Args:
        student: its logits are compared with
        teacher: the teacher's.
        num_kept: tokens of the teacher that the student has, where it has a part; None: all.

    Raises:
        ModelError: other vocabulary sizes.
    """
    sizes = student.config.vocab_size, num_kept or teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the student's vocabulary has {sizes[0]} tokens, the teacher's {sizes[1]}",
            "Distillation compares logits token by token: both need the same tokenizer.",
        )


def check_same_vocabulary(model: MaskedLM, teacher: MaskedLM, where: str) -> None:
    """Refuse a teacher whose distributions cannot be averaged with those of another one.

    Args:
        model: the one.
        teacher: the other.
        where: names the one, and opens the message.

    Raises:
        ModelError: they are over vocabularies of other sizes.
    """
    sizes = model.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"{where}: its vocabulary has {sizes[0]} tokens, that of "
            f"{teacher.config.name_or_path} {sizes[1]}",
            "Teachers are averaged token by token: their vocabularies must be of one size.",
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
