"""How a model is loaded: the tag that the hub knows its use by, and code to copy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilcli.errors import ModelError
from distilcli.hub.model_files import CONFIG, TOKENIZER_CONFIG, ModelFiles, model_files
from distilcli.models.sentence_encoders import MODULES

# By how the class that config.json names ends, whatever the architecture.
_TAGS = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
RANKING, SIMILARITY, FEATURES = "text-ranking", "sentence-similarity", "feature-extraction"


@dataclass(frozen=True)
class Use:
    """What a model is there for.

    Attributes:
        tag: the hub's name of that (pipeline_tag).
        classes: that it tells apart, in the order of their ids; empty where there are none.
        reads_pairs: whether it is shown two texts at a time.
        mask: what stands for a hidden token.
        several: whether a text may have any number of the classes.
    """

    tag: str
    classes: tuple[str, ...] = ()
    reads_pairs: bool = False
    mask: str = "[MASK]"
    several: bool = False

    @property
    def library(self) -> str:
        """The package that loads it."""
        return "sentence-transformers" if self.tag == SIMILARITY else "transformers"

    @property
    def gives_number(self) -> bool:
        """Whether its output is one number."""
        is_one = self.tag == "text-classification" and len(self.classes) < 2
        return self.tag == RANKING or is_one


def use_of(folder: Path, *, ranks: bool = False, reads_pairs: bool = False) -> Use:
    """What a model is there for, by its files.

    Args:
        folder: of the model.
        ranks: whether its number is how well a document fits a query.
        reads_pairs: whether it is shown two texts at a time.

    Raises:
        ModelError: a file is there and not valid.
    """
    files = model_files(str(folder.absolute()), None, str(folder))
    config = files.json_object(CONFIG) or {}
    [name, *_] = [str(one) for one in config.get("architectures") or []] or [""]
    tag = next((tag for ending, tag in _TAGS.items() if name.endswith(ending)), FEATURES)
    if files.find(MODULES) is not None:
        tag = SIMILARITY
    elif ranks:
        tag = RANKING
    has_classes = tag in ("text-classification", "token-classification")
    return Use(
        tag=tag,
        classes=_classes(config) if has_classes else (),
        reads_pairs=reads_pairs or ranks,
        mask=_mask(files),
        several=config.get("problem_type") == "multi_label_classification",
    )


def _classes(config: dict[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    return tuple(map(str, named.values())) if isinstance(named, dict) else ()


def _mask(files: ModelFiles) -> str:
    """The token that hides another one, as the tokenizer writes it."""
    try:
        said = (files.json_object(TOKENIZER_CONFIG) or {}).get("mask_token")
    except ModelError:
        said = None
    if isinstance(said, dict):
        said = said.get("content")
    return said if isinstance(said, str) and said else "[MASK]"


def code_of(use: Use, name: str) -> str:
    """Python that loads a model and uses it once.

    Args:
        use: what it is there for.
        name: of the model on the hub, or of its folder.
    """
    return _CODE[use.tag](use, name)


def _fill_mask(use: Use, name: str) -> str:
    return f"""from transformers import pipeline

fill = pipeline("fill-mask", model="{name}")
print(fill("The capital of France is {use.mask}."))"""


def _classify(use: Use, name: str) -> str:
    options = ""
    if use.gives_number:
        options = ', function_to_apply="none"'
    elif use.several:
        options = ", top_k=None"
    shown = '"A text."'
    if use.reads_pairs:
        shown = '{"text": "The first text.", "text_pair": "The second."}'
    return f"""from transformers import pipeline

classify = pipeline("text-classification", model="{name}"{options})
print(classify({shown}))"""


def _rank(use: Use, name: str) -> str:
    return f"""from transformers import pipeline

score = pipeline("text-classification", model="{name}", function_to_apply="none")
print(score({{"text": "The query.", "text_pair": "A document."}}))"""


def _tag_words(use: Use, name: str) -> str:
    return f"""from transformers import pipeline

tag = pipeline("token-classification", model="{name}")
print(tag("A sentence of some words ."))"""


def _answer(use: Use, name: str) -> str:
    return f"""import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForQuestionAnswering.from_pretrained("{name}")
inputs = tokenizer("Where is it?", "It is in the garden.", return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
first, last = outputs.start_logits.argmax(), outputs.end_logits.argmax()
print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))"""


def _embed(use: Use, name: str) -> str:
    return f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
vectors = model.encode(["A text.", "Another one."])
print(model.similarity(vectors, vectors))"""


def _run(use: Use, name: str) -> str:
    return f"""import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}")
with torch.no_grad():
    print(model(**tokenizer("A text.", return_tensors="pt")).last_hidden_state.shape)"""


_CODE = {
    "fill-mask": _fill_mask,
    "text-classification": _classify,
    RANKING: _rank,
    "token-classification": _tag_words,
    "question-answering": _answer,
    SIMILARITY: _embed,
    FEATURES: _run,
}
