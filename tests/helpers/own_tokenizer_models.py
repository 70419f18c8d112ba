"""Tiny models of other architectures than the package packs, with tokenizers of their own.

They are made here with `tokenizers` and transformers' configurations, saved as real ones are, and
learn the tasks of `tiny_tasks` in seconds, by plain padded training.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from byte_level import byte_level_tokenizer
from family_tokenizers import unigram_pieces, word_piece
from pydantic import TypeAdapter
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from distilcli.config.tasks import Task
from distilcli.models.padded import CLASSES, Filling, padded_rows
from distilcli.tasks.inputs import pack_inputs
from distilcli.tasks.open import open_task
from distilcli.tasks.outputs import Head
from distilcli.text.tokenizers import TextTokenizer


def unigram() -> PreTrainedTokenizerFast:
    """DeBERTa-v3's kind: pieces with the mark of a space, [CLS] and [SEP] around."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    backend = Tokenizer(Unigram(unigram_pieces(specials), unk_id=3))
    backend.normalizer = NFKC()
    backend.pre_tokenizer = Metaspace()
    backend.decoder = MetaspaceDecoder()
    backend.add_special_tokens(specials)
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=64,
    )


_SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "deberta-v2": unigram,
    "albert": unigram,
    "electra": word_piece,
    "roberta": byte_level_tokenizer,
    "mpnet": byte_level_tokenizer,
    "bart": byte_level_tokenizer,
    "fnet": unigram,
    "gpt2": byte_level_tokenizer,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        **_SHAPE,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_buckets": 8,
        "type_vocab_size": 0,
    },
    "albert": {**_SHAPE, "embedding_size": 16},
    "electra": {**_SHAPE, "embedding_size": 16},
    "roberta": {**_SHAPE, "type_vocab_size": 1, "max_position_embeddings": 66},
    "mpnet": {**_SHAPE, "max_position_embeddings": 66},
    "bart": {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    },
    "fnet": {"num_hidden_layers": 2, "intermediate_size": 32},
    "gpt2": {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64},
}


def configuration(model_type: str, labels: Sequence[str], **changes: Any) -> PreTrainedConfig:
    """Of a tiny model whose outputs have these names."""
    tokenizer = TOKENIZERS[model_type]()
    names = dict(enumerate(labels))
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }
    shape = {"max_position_embeddings": 64}
    if model_type not in ("bart", "gpt2"):
        shape["hidden_size"] = 32
    settings: dict[str, Any] = tokens | shape | SETTINGS[model_type] | changes
    return transformers.CONFIG_MAPPING[model_type](**settings)


def random_model(
    model_type: str, head: Head, labels: Sequence[str], **changes: Any
) -> PreTrainedModel:
    """A model with weights so large that its outputs differ from input to input."""
    model_class = getattr(transformers, CLASSES[head][model_type])
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model: PreTrainedModel = model_class(configuration(model_type, labels, **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save(model: PreTrainedModel, folder: Path) -> Path:
    """A transformers folder of a model, with its tokenizer."""
    model.save_pretrained(folder)
    TOKENIZERS[model.config.model_type]().save_pretrained(folder)
    return folder


def learn(
    model: PreTrainedModel, head: Head, section: dict[str, Any], order: Sequence[int], steps: int
) -> PreTrainedModel:
    """Train a model on a task of classes, tags or answers as its own tokenizer reads it.

    Args:
        model: changed in place.
        head: where its outputs are read.
        section: of an experiment, the `task`.
        order: which output of the model each class of the task is.
        steps: batches of 16.
    """
    tokenizer = TOKENIZERS[model.config.model_type]()
    task = open_task(TypeAdapter(Task).validate_python(section), TextTokenizer(tokenizer))
    inputs = task.train
    filling = Filling(tokenizer.pad_token_id, False, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model.train()
        for step in range(steps):
            samples = [(step * 16 + i) % len(inputs) for i in range(16)]
            batch = pack_inputs(inputs, samples)
            rows = [
                row[:, list(order)] for row in padded_rows(model, head, inputs, samples, filling)
            ]
            found = task.outputs.rows(torch.cat(rows), batch.lengths)
            targets = task.outputs.targets(batch.targets)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(found, targets).backward()
            optimizer.step()
    return model.eval()
