"""A BERT with random weights and the built-in teacher's tokenizer, to train from nothing.

    python scripts/development/random_bert.py --layers 12 --hidden 256 --output build/bert-12x256

Takes a second. Heads of 64, a feed-forward part of four times the width, 512 positions: the shapes
of Devlin et al. 2019, only smaller. `student: {kind: checkpoint, model: DIR}` trains it.
"""

import argparse
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

from distilcli.models.saving import save_model
from distilcli.text.tokenizers import load_tokenizer

HEAD_SIZE = 64
MAX_POSITIONS = 512


def random_bert(layers: int, hidden: int, vocab_size: int, pad_id: int) -> BertForMaskedLM:
    """The model, the same each time."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD_SIZE,
        intermediate_size=4 * hidden,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=pad_id,
    )
    return BertForMaskedLM(config)


def main() -> None:
    """Write the model and say how large it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=256, help="width, a multiple of 64")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    if options.hidden % HEAD_SIZE:
        parser.error(f"--hidden {options.hidden} is no multiple of {HEAD_SIZE}")

    tokenizer = load_tokenizer("builtin:teacher")
    model = random_bert(options.layers, options.hidden, len(tokenizer), tokenizer.pad_token_id)
    save_model(model, tokenizer, options.output)
    print(f"{model.num_parameters():,} parameters in {options.output}")


if __name__ == "__main__":
    main()
