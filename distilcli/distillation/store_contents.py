"""What a token store holds, for people, and what they should know of it."""

from transformers import PreTrainedTokenizerFast

from distilcli.corpus.store import TokenStore
from distilcli.distillation.tokenization import Tokenization
from distilcli.evaluation.result import Result, Table
from distilcli.text.tokenizer_checks import unknown_share, unknown_warning

# Of a manifest: nothing that people or programs ask for.
_LONG_FIELDS = {"token_counts", "length_histogram", "shards", "digests", "stamps", "seal"}


def contents_of(store: TokenStore, tokenization: Tokenization) -> Result:
    """What a token store holds."""
    manifest, folder = store.manifest, tokenization.data.store
    share = unknown_share(store.token_counts, tokenization.tokenizer)
    rows = [
        [name, f"{split.documents:,}", f"{split.sequences:,}", f"{split.tokens:,}", unknown]
        for name, split, unknown in (
            ("train", manifest.train, f"{share:.2%}"),
            ("held out", manifest.held_out, "-"),  # tokens are counted where they are trained on
        )
    ]
    columns = ["split", "documents", "sequences", "tokens", "unknown"]
    lines = [
        f"dropped as {reason.replace('_', ' ')}: {dropped.count:,} with {dropped.tokens:,} tokens"
        for reason, dropped in manifest.dropped.items()
    ]
    record = {"store": folder, **manifest.model_dump(mode="json", exclude=_LONG_FIELDS)}
    table = Table(f"token store {folder}", columns, rows)
    if tokenization.whole is not None and tokenization.kept is not None:
        pieces = len(tokenization.whole.tokenizer)
        lines.append(f"vocabulary: {len(tokenization.kept):,} of {pieces:,} pieces are kept")
        record["kept_pieces"] = len(tokenization.kept)
    if manifest.teacher is not None:
        train = manifest.teacher.counts["train"]
        share = train.agreed / max(1, train.text_tokens)
        lines.append(
            f"{share:.1%} of the tokens to train on are the teacher's, too, which has "
            f"{train.tokens:,} for the same text"
        )
    return Result(table, lines, record, store_warnings(store, tokenization.tokenizer))


def store_warnings(store: TokenStore, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """What a user should know of a store before trusting what is trained on it."""
    share = unknown_share(store.token_counts, tokenizer)
    found = [unknown_warning(share, tokenizer), store.manifest.overlap.warning]
    if not store.has_digests:
        found.append(
            "made before token stores had digests: a damaged byte in it would not be noticed; "
            "delete it and run distilcli prepare, and it has them"
        )
    return [f"{store.folder}: {warning}" for warning in found if warning]
