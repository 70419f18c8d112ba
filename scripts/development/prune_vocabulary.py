"""Cut a BERT's vocabulary down to the pieces that some corpora use; embeddings are carried over.

    python scripts/development/prune_vocabulary.py --model DIR --texts A.jsonl.gz B.jsonl.gz \
        --size 8000 --output DIR

Takes about 40 seconds for 80 MB of text. Single characters that occur at least --min-char-count
times keep both their plain and their ## piece, so WordPiece still spells every word made of them;
words with a rarer character become [UNK], as words with a character that the source lacks always
did. The other places go to the most frequent pieces. Dropping a piece makes its words spell with
smaller ones, whose counts rise: so the cut is made in rounds, and the words are spelled and
counted anew in each.

The pooler is not written: masked-LM training does not use it.
"""

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertModel, BertTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PREFIX = "##"
ROUNDS = 4


def read_texts(paths: list[Path]) -> Iterator[str]:
    """The "text" of every line of JSONL files, gzipped or not."""
    for path in paths:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def count_words(tokenizer: Tokenizer, texts: Iterator[str]) -> Counter[str]:
    """How often each pre-tokenised word occurs."""
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(tokenizer.normalizer.normalize_str(text).split())
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(chunk):
            words[word] += count
    return words


def count_pieces(tokenizer: Tokenizer, words: Counter[str]) -> Counter[str]:
    """How often each piece occurs when the words are spelled with this tokenizer."""
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        for token in tokenizer.model.tokenize(word):
            pieces[token.value] += count
    return pieces


def kept_characters(vocabulary: list[str], words: Counter[str], min_count: int) -> list[str]:
    """Single-character pieces, plain and ##, of characters that are not too rare."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    return [
        piece
        for piece in vocabulary
        if len(piece.removeprefix(PREFIX)) == 1
        and characters[piece.removeprefix(PREFIX)] >= min_count
    ]


def with_vocabulary(source: Tokenizer, pieces: list[str]) -> Tokenizer:
    """The same normaliser, pre-tokeniser and decoder over another list of pieces."""
    ids = {piece: index for index, piece in enumerate(pieces)}
    tree = json.loads(source.to_str())
    tree["truncation"] = tree["padding"] = None
    tree["model"]["vocab"] = ids
    tree["added_tokens"] = [
        {**added, "id": ids[added["content"]]}
        for added in sorted(tree["added_tokens"], key=lambda added: ids[added["content"]])
    ]
    for name, special in tree["post_processor"]["special_tokens"].items():
        special["ids"] = [ids[name]]
    return Tokenizer.from_str(json.dumps(tree))


def prune(source: Tokenizer, words: Counter[str], size: int, min_char_count: int) -> Tokenizer:
    """The tokenizer with the `size` most useful pieces, cut in rounds of equal ratio."""
    tokenizer = source
    vocabulary = sorted(source.get_vocab(), key=source.get_vocab().__getitem__)
    characters = kept_characters(vocabulary, words, min_char_count)
    fixed = set(SPECIAL) | set(characters)
    if len(fixed) > size:
        raise SystemExit(f"--size {size}: {len(fixed)} special tokens and characters alone")
    for remaining in reversed(range(ROUNDS)):
        target = round(size * (len(source.get_vocab()) / size) ** (remaining / ROUNDS))
        counts = count_pieces(tokenizer, words)
        ranked = [piece for piece, _ in counts.most_common() if piece not in fixed]
        chosen = fixed | set(ranked[: target - len(fixed)])
        pieces = SPECIAL + [p for p in vocabulary if p in chosen and p not in SPECIAL]
        tokenizer = with_vocabulary(source, pieces)
    return tokenizer


def describe(tokenizer: Tokenizer, words: Counter[str]) -> str:
    """Pieces, spelling length and unknown words, on one line."""
    counts = count_pieces(tokenizer, words)
    total = sum(counts.values())
    return (
        f"{tokenizer.get_vocab_size():6d} pieces, {total / sum(words.values()):.4f} tokens a word, "
        f"{100 * counts['[UNK]'] / total:.4f} % [UNK], "
        f"{sum(count >= 100 for count in counts.values())} pieces occur 100 times or more"
    )


def prune_model(folder: Path, old: Tokenizer, new: Tokenizer) -> BertModel:
    """The model of `folder` without its pooler, its embedding rows reordered for `new`."""
    model = BertModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
    old_ids = old.get_vocab()
    vocabulary = sorted(new.get_vocab(), key=new.get_vocab().__getitem__)
    rows = torch.tensor([old_ids[piece] for piece in vocabulary])
    embedding = model.embeddings.word_embeddings.weight.detach()[rows].clone()
    table = torch.nn.Embedding.from_pretrained(embedding, freeze=False, padding_idx=0)
    model.set_input_embeddings(table)
    model.config.vocab_size = len(vocabulary)
    model.config.pad_token_id = 0
    model.config.architectures = ["BertModel"]
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a BertModel")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="JSONL, may be .gz")
    parser.add_argument("--size", type=int, default=8000, help="pieces to keep")
    parser.add_argument("--min-char-count", type=int, default=5, help="rarer characters may go")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()

    old = AutoTokenizer.from_pretrained(options.model).backend_tokenizer
    words = count_words(old, read_texts(options.texts))
    print(f"{sum(words.values())} words, {len(words)} different")
    new = prune(old, words, options.size, options.min_char_count)
    print("before:", describe(old, words))
    print("after: ", describe(new, words))

    prune_model(options.model, old, new).save_pretrained(options.output)
    tokenizer = BertTokenizer(tokenizer_object=new, model_max_length=512)
    tokenizer.save_pretrained(options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
