"""Whether models, their vocabularies and their lengths fit together, before anything is run."""

from transformers import PreTrainedModel

from distilcli.corpus.store import TokenStore
from distilcli.errors import ModelError
from distilcli.models.families import MaskedLM, num_positions

# What fits together


def check_pair(student: MaskedLM, teacher: MaskedLM, *, cosine: bool) -> None:
    """Refuse a pair whose outputs cannot be compared.

    Args:
        student: its logits and hidden states are compared with
        teacher: the teacher's.
        cosine: last hidden states are compared too, so their widths must agree.

    Raises:
        ModelError: other vocabulary sizes, or other hidden sizes where `cosine`.
    """
    sizes = student.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the student's vocabulary has {sizes[0]} tokens, the teacher's {sizes[1]}",
            "Distillation compares logits token by token: both need the same tokenizer.",
        )
    if cosine:
        check_widths(student, teacher)


def check_widths(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuse a pair whose hidden states cannot be compared.

    Raises:
        ModelError: other hidden sizes.
    """
    widths = student.config.hidden_size, teacher.config.hidden_size
    if widths[0] != widths[1]:
        raise ModelError(
            f"loss.alpha_cos: the student's hidden size is {widths[0]}, the teacher's {widths[1]}",
            "Set loss.alpha_cos=0, or use a student of the teacher's width.",
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


def check_vocabulary(model: MaskedLM, store: TokenStore, name: str) -> None:
    """Refuse a model that has no embedding for some token of the store.

    Raises:
        ModelError: its vocabulary is smaller than the store's.
    """
    if model.config.vocab_size < store.manifest.vocab_size:
        raise ModelError(
            f"{name}: its vocabulary of {model.config.vocab_size} is smaller than the token "
            f"store's of {store.manifest.vocab_size}",
            "Use the model that the store's tokenizer belongs to, or prepare another data.store.",
        )
