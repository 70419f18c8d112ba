"""Code to copy that runs an export: with onnxruntime and tokenizers alone, or in JavaScript.

What both have in common is the graph's names: `logits`, `start_logits` and `end_logits`, or
`sentence_embedding`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distilcli.cards.usage import FEATURES, RANKING, SIMILARITY, Use


@dataclass(frozen=True)
class Texts:
    """How texts are shown to a model, beside its tokenizer.

    Attributes:
        prompt: stands before every text.
        lowers: whether capital letters become small ones before.
    """

    prompt: str = ""
    lowers: bool = False

    def shown(self, text: str) -> str:
        """A text of an example, as it is to be given."""
        return f"{self.prompt}{text.lower() if self.lowers else text}"


def python_code(use: Use, file: str, texts: Texts) -> str:
    """Python that runs an export once, in its folder.

    Args:
        use: what the model is there for.
        file: of the export, such as onnx/model.onnx.
        texts: how texts are shown to it.
    """
    names, output, lines = _PYTHON[_kind_of(use)]
    needs_labels = "labels" in lines
    shown = ", ".join(_quoted(text) for text in _examples(use, texts))
    return "\n".join(
        [
            *(["import json", ""] if needs_labels else []),
            "import numpy as np",
            "import onnxruntime",
            "from tokenizers import Tokenizer",
            "",
            'tokenizer = Tokenizer.from_file("tokenizer.json")',
            f'session = onnxruntime.InferenceSession("{file}")',
            *(['labels = json.load(open("config.json"))["id2label"]'] if needs_labels else []),
            f"text = tokenizer.encode({shown})",
            'inputs = {"input_ids": text.ids, "attention_mask": text.attention_mask}',
            'inputs["token_type_ids"] = text.type_ids',
            "shown = {i.name: np.array([inputs[i.name]]) for i in session.get_inputs()}",
            f"{output} = session.run([{', '.join(map(_quoted, names))}], shown)",
            lines.replace("[MASK]", use.mask),
        ]
    )


def javascript_code(use: Use, name: str, dtype: str, texts: Texts, has_pipeline: bool) -> str:
    """JavaScript that runs an export once with transformers.js.

    Args:
        use: what the model is there for.
        name: of the model on the hub.
        dtype: what transformers.js calls the file: q8 (int8) or fp32.
        texts: how texts are shown to it.
        has_pipeline: whether the pipelines of transformers.js take models of this family.
    """
    kind = _kind_of(use)
    shown = [_quoted(text) for text in _examples(use, texts)]
    options = f'{{ dtype: "{dtype}" }}'
    if kind in _PIPELINES and has_pipeline and not use.reads_pairs:
        more = ", { top_k: null }" if use.several else ""
        return f"""import {{ pipeline }} from "@huggingface/transformers";

const run = await pipeline("{use.tag}", "{name}", {options});
console.log(await run({", ".join(shown)}{more}));"""
    more = f"text_pair: {shown[1]}, truncation: true" if len(shown) > 1 else "truncation: true"
    outputs = ", ".join(_PYTHON[kind][0])
    return f"""import {{ AutoModel, AutoTokenizer }} from "@huggingface/transformers";

const tokenizer = await AutoTokenizer.from_pretrained("{name}");
const model = await AutoModel.from_pretrained("{name}", {options});
const inputs = await tokenizer({shown[0]}, {{ {more} }});
const {{ {outputs} }} = await model(inputs);
{_printed(_PYTHON[kind][0])}"""


def _printed(outputs: Sequence[str]) -> str:
    return "\n".join(f"console.log({name}.tolist());" for name in outputs)


def _kind_of(use: Use) -> str:
    if use.gives_number:
        return "number"
    return "several" if use.several else use.tag


def _examples(use: Use, texts: Texts) -> list[str]:
    """One text, or two where the model reads two at a time."""
    if use.tag == RANKING:
        return ["The query.", "A document."]
    if use.tag == "question-answering":
        return ["Where is it?", "It is in the garden."]
    if use.reads_pairs:
        return ["The first text.", "The second."]
    if use.tag == "fill-mask":
        return [f"The capital of France is {use.mask}."]
    return [texts.shown("A text.")]


def _quoted(text: str) -> str:
    """A text as both languages write it."""
    for special, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.replace(special, written)
    return f'"{text}"'


# Names of the outputs; what they are assigned to; what is made of them.
_PYTHON: dict[str, tuple[tuple[str, ...], str, str]] = {
    "fill-mask": (
        ("logits",),
        "[logits]",
        'place = text.ids.index(tokenizer.token_to_id("[MASK]"))\n'
        "print(tokenizer.id_to_token(int(logits[0, place].argmax())))",
    ),
    "text-classification": (
        ("logits",),
        "[logits]",
        "print(labels[str(logits[0].argmax())])",
    ),
    "several": (
        ("logits",),
        "[logits]",
        "print([labels[str(i)] for i in np.flatnonzero(logits[0] > 0)])",
    ),
    "number": (("logits",), "[logits]", "print(logits[0, 0])"),
    "token-classification": (
        ("logits",),
        "[logits]",
        "print([(token, labels[str(i)]) for token, i in zip(text.tokens, logits[0].argmax(-1))])",
    ),
    "question-answering": (
        ("start_logits", "end_logits"),
        "starts, ends",
        "print(tokenizer.decode(text.ids[starts[0].argmax() : ends[0].argmax() + 1]))",
    ),
    SIMILARITY: (("sentence_embedding",), "[vectors]", "print(vectors.shape)"),
    FEATURES: (("last_hidden_state",), "[states]", "print(states.shape)"),
}
# Of the others transformers.js has no pipeline, or one that makes 1.0 of every number.
_PIPELINES = (
    "fill-mask",
    "text-classification",
    "several",
    "token-classification",
    "question-answering",
)
