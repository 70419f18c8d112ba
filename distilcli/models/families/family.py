"""What this package must know of an architecture and transformers does not tell.

Paths are dotted names of modules: in a layer, in the body (without a head) or in the whole model,
as each field says. Every module that has a role here has a weight; whether it has a bias, its
family decides, or a model's configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from distilcli.tasks.inputs import TaskBatch
from distilcli.tasks.outputs import Head

# What transformers calls the type of a layer whose tokens see those near them.
_IN_A_WINDOW = "sliding_attention"
# A model with a masked-LM head, of any family: transformers has no type for these.
MaskedLM: TypeAlias = PreTrainedModel


@dataclass(frozen=True)
class Settings:
    """What the configuration of a family calls its sizes and its dropouts.

    Attributes:
        hidden_size: width of hidden states.
        embedding_size: width of embeddings, and of what the decoder reads.
        num_hidden_layers: depth.
        num_attention_heads: of every layer.
        inner_size: width between the two products of a feed-forward network.
        activation: of the feed-forward network.
        dropout: of embeddings and of what a layer adds to its input.
        attention_dropout: of attention probabilities.
        more_dropouts: further names for dropouts that a family sets apart from `dropout`.
        layer_types: list of the kind of each layer, in a family whose layers are of several kinds.
        window: tokens that a layer with local attention sees, in a family that has such layers.
    """

    hidden_size: str = "hidden_size"
    embedding_size: str = "hidden_size"
    num_hidden_layers: str = "num_hidden_layers"
    num_attention_heads: str = "num_attention_heads"
    inner_size: str = "intermediate_size"
    activation: str = "hidden_act"
    dropout: str = "hidden_dropout_prob"
    attention_dropout: str = "attention_probs_dropout_prob"
    more_dropouts: tuple[str, ...] = ()
    layer_types: str | None = None
    window: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """Names that stand alone, by what they are called here."""
        return {key: name for key, name in vars(self).items() if isinstance(name, str)}


@dataclass(frozen=True)
class Table:
    """One more table of embeddings, which every token gets the first row of.

    Attributes:
        path: of the table, in the body.
        rows: setting that says how many rows it has.
        there: setting that says whether a model has it.
    """

    path: str
    rows: str
    there: str


@dataclass(frozen=True)
class Embeddings:
    """Paths in the body of what token ids go through before the first layer.

    Attributes:
        words: one vector for each token of the vocabulary.
        positions: one vector for each position; None in a family that rotates queries and keys.
        norm: LayerNorm of their sum.
        token_types: one vector for each token type; None in a family without them.
        others: what else a model may add.
    """

    words: str = "embeddings.word_embeddings"
    positions: str | None = "embeddings.position_embeddings"
    norm: str = "embeddings.LayerNorm"
    token_types: str | None = "embeddings.token_type_embeddings"
    others: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Layer:
    """Paths in one layer: what each of its modules is there for.

    Roles may name the same projection: its outputs are then in equal parts, one for each of these
    roles in the order below. `part` tells which.

    Attributes:
        query: projection to attention queries; what it lies in also holds attention dropout.
        key: projection to attention keys.
        value: projection to attention values.
        attention_output: projection of what attention gives.
        attention_norm: LayerNorm of attention: after it and its residual, or before it.
        inner: first product of the feed-forward network, up to the inner size.
        outer: second product, back to the hidden size.
        output_norm: LayerNorm of the feed-forward network: after it and its residual, or before it.
        gate: what the activated inner states are multiplied with; None: nothing.
    """

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    inner: str
    outer: str
    output_norm: str
    gate: str | None = None

    @property
    def attention(self) -> str:
        """What queries, keys and values are made in, and attention dropout is a child of."""
        return self.query.rpartition(".")[0]

    @property
    def roles(self) -> dict[str, str]:
        """Paths by role, without the roles that nothing has."""
        return {role: path for role, path in vars(self).items() if path is not None}

    def part(self, role: str) -> tuple[int, int]:
        """Which part of its projection's outputs a role has, from 0, and how many parts there are.

        The queries of a layer are `projection(x).chunk(count, dim=-1)[index]`, with the module at
        `query` and `index, count = part("query")`.
        """
        shared = [one for one, path in self.roles.items() if path == self.roles[role]]
        return shared.index(role), len(shared)


@dataclass(frozen=True)
class VocabularyHead:
    """The head that predicts tokens, by its paths in the masked-LM model.

    Attributes:
        transform: projection of last hidden states.
        norm: LayerNorm after it and its activation.
        decoder: projection to the vocabulary, whose weight may be the word embeddings.
        features: model and last hidden states [tokens, hidden] to what the decoder reads.
        second_bias: another name under which transformers keeps the decoder's bias, if any.
        saved_by: classes of transformers whose checkpoints have this head.
        without_it: what a checkpoint of this family without the head may be, and what to do.
    """

    transform: str
    norm: str
    decoder: str
    features: Callable[[Any, Tensor], Tensor]
    saved_by: tuple[str, ...]
    second_bias: str | None = None
    without_it: str = ""

    @property
    def biases(self) -> tuple[str, ...]:
        """All names of the decoder's bias; the first is the one that is read."""
        second = () if self.second_bias is None else (self.second_bias,)
        return (f"{self.decoder}.bias", *second)


def states_at_outputs(model: Any, hidden: Tensor, batch: TaskBatch) -> Tensor:
    """Last hidden states of the tokens at which outputs are read, [outputs, hidden]."""
    return hidden[batch.output_positions]


@dataclass(frozen=True)
class TaskHead:
    """A head for a task.

    Attributes:
        model_class: of transformers, the body with this head.
        outputs: model and last hidden states [outputs, hidden] to outputs [outputs, classes].
        pool: model, last hidden states of all tokens [tokens, hidden] and the batch that they are
            of to what `outputs` gets: those of the tokens at which outputs are read, as a rule.
    """

    model_class: type[PreTrainedModel]
    outputs: Callable[[Any, Tensor], Tensor]
    pool: Callable[[Any, Tensor, TaskBatch], Tensor] = states_at_outputs


def set_dropout_modules(attention: Any, rate: float) -> None:
    """Set the dropout of attention probabilities that is a module of a layer's attention."""
    for module in attention.children():
        if isinstance(module, nn.Dropout):
            module.p = rate


def nothing_more(tree: Mapping[str, Any], where: str) -> None:
    """The check of a family whose configuration has nothing that others have not."""


def no_older_settings(config: Any) -> dict[str, Any]:
    """What the configuration of a family says that transformers 4 calls the same."""
    return {}


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model_type: what `config.json` calls it.
        name: what people call it.
        config_class: its configuration, of transformers.
        masked_lm: its model with a masked-LM head, of transformers.
        vocabulary_head: that head.
        task_heads: its models with other heads.
        layers: path in the body of the list of its layers.
        layer: what is in one of them.
        embeddings: what is before them.
        settings: names in its configuration.
        student: model type of a student that is copied from it; None: its own, with fewer layers.
        takes_token_types: whether its models are given the type of each token.
        starts_after_padding: whether the first token has the position pad_token_id + 1; else 0.
        pooler: module of the body that only the head of a sequence reads; None: it has none.
        layer_norm_eps: LayerNorm epsilon where the code fixes it; None: its configuration says.
        inherited: further settings of a model, which a new one made after it has too.
        first_layer_differs: whether the first layer has other modules than those after it.
        set_attention_dropout: sets that dropout in what `Layer.attention` is.
        check: given config.json and what opens an error message; raises ModelError where it says
            what this family's models cannot have, beyond what all are checked for.
        older_settings: of a configuration, what config.json must say too for transformers 4.
        known_in_javascript: whether the pipelines of transformers.js take its models.
    """

    model_type: str
    name: str
    config_class: type[PreTrainedConfig]
    masked_lm: type[PreTrainedModel]
    vocabulary_head: VocabularyHead
    task_heads: Mapping[Head, TaskHead]
    layers: str
    layer: Layer
    embeddings: Embeddings
    settings: Settings
    student: str | None = None
    takes_token_types: bool = False
    starts_after_padding: bool = False
    pooler: str | None = None
    layer_norm_eps: float | None = None
    inherited: tuple[str, ...] = ()
    first_layer_differs: bool = False
    set_attention_dropout: Callable[[Any, float], None] = set_dropout_modules
    check: Callable[[Mapping[str, Any], str], None] = nothing_more
    older_settings: Callable[[Any], dict[str, Any]] = no_older_settings
    known_in_javascript: bool = True

    @property
    def a_name(self) -> str:
        """Its name as one of them is spoken of: `a BERT`, `an ELECTRA`, `an XLM-RoBERTa`."""
        return f"{'an' if self.name[0] in 'AEIOX' else 'a'} {self.name}"

    def first_position(self, config: Any) -> int:
        """Position of the first token of a sequence."""
        return int(config.pad_token_id) + 1 if self.starts_after_padding else 0

    def num_positions(self, config: Any) -> int:
        """Tokens that a sequence may have: positions from the first on."""
        return int(config.max_position_embeddings) - self.first_position(config)

    def num_token_types(self, config: Any) -> int:
        """Token types that there is an embedding of."""
        return 0 if self.embeddings.token_types is None else int(config.type_vocab_size)

    def embedding_width(self, config: Any) -> int:
        """Width of embeddings: a projection may stand between them and the first layer."""
        return int(getattr(config, self.settings.embedding_size))

    def tables(self, config: Any) -> dict[str, int]:
        """Rows of each table of embeddings, by its path; 0 of one that the model does not have."""
        embeddings = self.embeddings
        rows = {embeddings.words: int(config.vocab_size)}
        if embeddings.positions is not None:
            rows[embeddings.positions] = config.max_position_embeddings
        if embeddings.token_types is not None:
            rows[embeddings.token_types] = self.num_token_types(config)
        for table in embeddings.others:
            rows[table.path] = getattr(config, table.rows) if getattr(config, table.there) else 0
        return rows

    @property
    def sizes(self) -> tuple[str, ...]:
        """Settings that must be whole numbers from 1."""
        names = self.settings
        return (
            *(() if names.window is None else (names.window,)),
            "vocab_size",
            names.hidden_size,
            names.embedding_size,
            names.num_hidden_layers,
            names.num_attention_heads,
            names.inner_size,
            "max_position_embeddings",
            *(() if self.embeddings.token_types is None else ("type_vocab_size",)),
            *(table.rows for table in self.embeddings.others),
        )

    def layer_kinds(self, config: Any, num_layers: int) -> list[str] | None:
        """The kind that each layer of a model has, which a student's must have in the same order.

        Args:
            config: of the model.
            num_layers: how many layers; for more than the model has, its pattern goes on.

        Returns:
            Each kind in words, such as "the first layer"; None where any layer can stand anywhere.
        """
        types = self._layer_types(config, num_layers)
        if types is None:
            return None
        kinds = [f"a {one} layer" for one in types]
        return ["the first layer", *kinds[1:]] if self.first_layer_differs else kinds

    def of_depth(self, config: Any, num_layers: int) -> dict[str, Any]:
        """The settings of a configuration that say how many layers there are, and of which kinds.

        Args:
            config: whose layers come in the order that is kept.
            num_layers: how many there shall be.
        """
        types = self._layer_types(config, num_layers)
        depth: dict[str, Any] = {self.settings.num_hidden_layers: num_layers}
        return depth if types is None else depth | {str(self.settings.layer_types): types}

    def of_width(
        self, config: Any, hidden_size: int, num_heads: int, inner_size: int
    ) -> dict[str, Any]:
        """The settings of a configuration that say how wide a model is.

        Embeddings that are as wide as hidden states stay so; others keep their width.

        Args:
            config: of a model.
            hidden_size: of another one.
            num_heads: attention heads of each of its layers.
            inner_size: between the two products of its feed-forward networks.
        """
        names = self.settings
        is_one = self.embedding_width(config) == getattr(config, names.hidden_size)
        embeddings = {names.embedding_size: hidden_size} if is_one else {}
        return embeddings | {
            names.hidden_size: hidden_size,
            names.num_attention_heads: num_heads,
            names.inner_size: inner_size,
        }

    def _layer_types(self, config: Any, num_layers: int) -> list[str] | None:
        """The types of so many layers in the pattern of a configuration; None without types."""
        if self.settings.layer_types is None:
            return None
        types = list(getattr(config, self.settings.layer_types))
        # At the latest the whole list repeats.
        period = next(n for n in range(1, len(types) + 1) if types[n:] == types[:-n])
        return [types[i % period] for i in range(num_layers)]

    def radii(self, config: Any, num_layers: int) -> list[int | None]:
        """Places to either side that a token of each layer sees; None: its whole sequence."""
        types = self._layer_types(config, num_layers)
        if types is None or self.settings.window is None:
            return [None] * num_layers
        radius = int(getattr(config, self.settings.window)) // 2
        return [radius if one == _IN_A_WINDOW else None for one in types]

    @property
    def head_classes(self) -> set[str]:
        """Names of its classes with a head for a task."""
        return {head.model_class.__name__ for head in self.task_heads.values()}


def linear(layer: nn.Linear, features: Tensor) -> Tensor:
    """Outputs of the last projection of a head, in fp32 whatever its weights are in."""
    outputs: Tensor = layer(features)
    return outputs.float()


def token_outputs(model: Any, hidden: Tensor) -> Tensor:
    """A head of one projection for each token, after dropout."""
    return linear(model.classifier, model.dropout(hidden))
