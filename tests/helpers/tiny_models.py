"""Tiny models for the tests, with weights that make every part of a computation count."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

VOCAB, HIDDEN, LAYERS = 97, 32, 4


def make_bert(model_class: type = BertForMaskedLM, **changes: object):
    """A tiny BERT whose every weight, biases and token types included, is well away from zero."""
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
    }
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = model_class(BertConfig(**(shape | changes)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of VOCAB whole words: w0, w1, ... and BERT's special tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(words + [f"w{i}" for i in range(VOCAB - 5)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
