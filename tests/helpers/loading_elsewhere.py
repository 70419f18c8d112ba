"""Load students with transformers alone, of whichever version is on the path.

python loading_elsewhere.py FOLDER

`FOLDER` has a folder for each student, `FAMILY-HEAD`. It is run by another Python path, so that it
imports nothing of this project.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

TEXTS = ["ba be bi bo.", "BA, b\u00e9 du ka ku \u4f60 7"]
AUTO = {
    "masked-lm": "AutoModelForMaskedLM",
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "encoder": "AutoModel",
}
PIPELINES = {
    "masked-lm": "fill-mask",
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "encoder": "feature-extraction",
}


def outputs(folder: Path, head: str) -> dict[str, torch.Tensor]:
    """What the model computes of each text, exactly as its tokenizer hands them over."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    auto = getattr(transformers, AUTO[head])
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    # A pooler, where there is one, is no part of a vector.
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    assert not missing, f"{folder.name}: not in the file: {missing}"
    assert not info["unexpected_keys"], f"{folder.name}: not used: {info['unexpected_keys']}"
    found = {}
    for number, text in enumerate(TEXTS):
        inputs = tokenizer(text, return_tensors="pt")
        found[f"{number} ids"] = inputs["input_ids"]
        with torch.no_grad():
            result = model.eval()(**inputs)
        for name, tensor in result.items():
            if name != "pooler_output":
                found[f"{number} {name}"] = tensor
    return found


def piped(folder: Path, head: str) -> Any:
    """What the pipeline says."""
    ask = transformers.pipeline(PIPELINES[head], model=str(folder), device="cpu")
    if head == "span":
        return ask(question=TEXTS[0], context=TEXTS[1])
    if head == "masked-lm":
        return ask(f"ba be {ask.tokenizer.mask_token} bi.")
    return ask(TEXTS[0])


def compare(root: Path) -> dict[str, Any]:
    """How far outputs are from those in `expected.safetensors`, for each student."""
    differences = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        head = next(head for head in AUTO if folder.name.endswith(f"-{head}"))
        expected = load_file(folder.parent / f"{folder.name}.safetensors")
        found = outputs(folder, head)
        assert found.keys() == expected.keys(), folder.name
        for name, tensor in found.items():
            assert tensor.shape == expected[name].shape, (folder.name, name)
        differences[folder.name] = max(
            float((tensor.double() - expected[name].double()).abs().max())
            for name, tensor in found.items()
        )
        if head != "span" or transformers.__version__ < "5":
            assert piped(folder, head)
    return {"transformers": transformers.__version__, "differences": differences}


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]))))
