"""The configuration of a model: what config.json says, as far as this package can compute it."""

from typing import Any

from distilcli.errors import ModelError, either
from distilcli.files.json_text import check_encodable
from distilcli.hub.model_files import CONFIG, ModelFiles, first_line, invalid_config
from distilcli.models.families import FAMILIES, Family, why_refused

# How a model is run, and from where it is loaded, is not for its files to say.
_NOT_FOR_A_FILE = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "distributed_config",
    "dtype",
    "experts_implementation",
    "fusion_config",
    "is_causal",  # false in models made by programs that make decoders, too; true is refused
    "kernel_config",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torch_dtype",
    "torchscript",
    "transformers_weights",
    "use_cache",
}
_MAX_SIZE = 2**31 - 1
_MAX_LABELS = 2**20


def config_of(files: ModelFiles) -> Any:
    """The configuration of a model that this package can use.

    Raises:
        ModelError: it is not valid, or of a model that would not compute what it says.
    """
    where = files.where
    tree = files.json_object(CONFIG)
    if tree is None:
        raise ModelError(f"{where}: it has no config.json", "Copy or download it again.")
    try:
        check_encodable(tree)
    except ValueError as error:
        raise invalid_config(where, f"half a surrogate pair: {first_line(error)}") from error
    family = _family(tree.get("model_type"), where)
    refuse_use(tree, where)
    check_positions(tree, where, family)
    _check_values(tree, family, where)
    family.check(tree, where)
    try:
        config = family.config_class.from_dict(usable_values(tree))
    except Exception as error:  # what transformers raises here shares no base class
        raise invalid_config(where, first_line(error)) from error
    _check_sizes(config, family, where)
    return config


def _family(model_type: Any, where: str) -> Family:
    if model_type is None:
        first, *others = FAMILIES.values()
        more = "".join(f'; if {one.a_name}, "{one.model_type}"' for one in others)
        raise ModelError(
            f"{where}: its config.json has no model_type",
            f'If it is {first.a_name}, add "model_type": "{first.model_type}" to that file{more}.',
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        reason = why_refused(model_type) if isinstance(model_type, str) else None
        raise ModelError(
            f"{where}: its model_type is {model_type}, {reason or 'not ' + either(list(FAMILIES))}",
            f"Use a {either([family.name for family in FAMILIES.values()])}.",
        )
    return FAMILIES[model_type]


def usable_values(tree: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says of the model, and not of how it is run."""
    return {key: value for key, value in tree.items() if key not in _NOT_FOR_A_FILE}


def refuse_use(tree: dict[str, Any], where: str) -> None:
    """Refuse the configuration of a quantized model or of a decoder; ModelError."""
    if tree.get("quantization_config") is not None:
        raise ModelError(
            f"{where}: its weights are quantized (quantization_config in config.json)",
            "Use the model as it was before that, in fp32, fp16 or bf16.",
        )
    of_decoders = ("is_decoder", "add_cross_attention", "is_causal")
    said = next((key for key in of_decoders if tree.get(key)), None)
    if said is not None:
        raise ModelError(
            f"{where}: it is a decoder ({said}), which sees only the tokens before the mask",
            "Use a model that was trained as a masked-LM.",
        )


def check_positions(tree: dict[str, Any], where: str, family: Family) -> None:
    """Refuse a configuration with other than absolute positions; ModelError.

    A family that rotates queries and keys has no table that the key could speak of: there its
    value, such as the "sans_pos" of mmBERT and of the Ettin encoders, changes nothing.
    """
    if family.embeddings.positions is None:
        return
    # transformers 5 ignores this key: such a model would load, and compute something else.
    kind = tree.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise ModelError(
            f"{where}: position_embedding_type is {kind}; only absolute positions can be used",
            f"Use {family.a_name} with absolute position embeddings.",
        )


def _check_values(tree: dict[str, Any], family: Family, where: str) -> None:
    """Refuse what transformers would take and fail on later, or use up the memory for."""
    architectures = tree.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(x, str) for x in architectures):
        raise invalid_config(where, "architectures is not a list of names")
    for key in ("id2label", "label2id"):
        if not isinstance(tree.get(key) or {}, dict):
            raise invalid_config(where, f"{key} is not an object")
    if not isinstance(tree.get("tie_word_embeddings", True), bool):
        raise invalid_config(where, "tie_word_embeddings is not true or false")
    spread = tree.get("initializer_range", 0.0)  # of weights that a student may need anew
    if isinstance(spread, bool) or not isinstance(spread, int | float) or not 0 <= spread < 1e6:
        raise invalid_config(where, f"initializer_range is {spread!r}, not a number from 0")
    for key in (*family.sizes, "num_labels"):
        value = tree.get(key)
        if value is None and key not in tree:
            continue
        limit = _MAX_LABELS if key == "num_labels" else _MAX_SIZE
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
            raise invalid_config(
                where, f"{key} is {value!r}, not a whole number from 1 to {limit:,}"
            )


def _check_sizes(config: Any, family: Family, where: str) -> None:
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        raise invalid_config(where, f"{heads} attention heads do not divide a width of {width}")
    padding = config.pad_token_id
    if padding is not None and not 0 <= padding < config.vocab_size:
        raise invalid_config(
            where, f"pad_token_id {padding} is not one of {config.vocab_size} tokens"
        )
    if family.starts_after_padding:
        _check_first_position(config, family, where)
    _check_activation(getattr(config, family.settings.activation), where)


def _check_first_position(config: Any, family: Family, where: str) -> None:
    if config.pad_token_id is None:
        raise invalid_config(where, "pad_token_id is missing, and positions begin after it")
    if family.num_positions(config) < 1:
        raise invalid_config(
            where,
            f"max_position_embeddings is {config.max_position_embeddings}, and positions begin "
            f"after pad_token_id, {config.pad_token_id}",
        )


def _check_activation(name: Any, where: str) -> None:
    from transformers.activations import ACT2FN

    if not isinstance(name, str) or name not in ACT2FN:
        raise invalid_config(where, f"{name!r} is no activation of transformers, such as gelu")
