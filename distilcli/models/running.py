"""Running a model over a packed micro-batch: hidden states, logits, outputs of a task's head."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from distilcli.batches.packing import PackedSequences
from distilcli.losses.projections import Projection
from distilcli.models.attention import Packing
from distilcli.models.families import (
    MaskedLM,
    TaskHead,
    decoder,
    encoder,
    family_of,
    first_position,
    head_features,
    takes_token_types,
)
from distilcli.tasks.inputs import TaskBatch


def run_encoder(
    model: PreTrainedModel, batch: PackedSequences, packing: Packing, **inputs: Tensor
) -> Float[Tensor, "tokens hidden"]:
    """Last hidden states of a model with packed attention; `inputs` are what else it takes."""
    first = first_position(model)
    position_ids = batch.position_ids + first if first else batch.position_ids
    output = encoder(model)(
        input_ids=batch.input_ids, position_ids=position_ids, packing=packing, **inputs
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def vocabulary_projection(model: MaskedLM, hidden: Float[Tensor, "tokens hidden"]) -> Projection:
    """The masked-LM head of a model, up to but without the product that makes logits."""
    weight = decoder(model).weight
    bias: Tensor | None = decoder(model).bias
    if bias is None:  # as some configurations have it
        bias = weight.new_zeros(len(weight))
    return Projection(head_features(model, hidden), weight, bias)


def run_model(
    model: PreTrainedModel, batch: TaskBatch
) -> tuple[Float[Tensor, "outputs classes"], Float[Tensor, "tokens hidden"]]:
    """Outputs where they are read, in fp32, and last hidden states, of a packed model."""
    types = {"token_type_ids": batch.token_type_ids} if takes_token_types(model) else {}
    hidden = run_encoder(model, batch, Packing.of(batch), **types)
    head = _task_head(model)
    return head.outputs(model, head.pool(model, hidden, batch)), hidden


def _task_head(model: PreTrainedModel) -> TaskHead:
    for head in family_of(model).task_heads.values():
        if type(model) is head.model_class:
            return head
    raise AssertionError(f"{type(model).__name__} has no head for a task")
