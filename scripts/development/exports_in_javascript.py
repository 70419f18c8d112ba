"""Whether transformers.js makes of an export what Python makes of it, and whether its card is so.

    npm install --prefix modules @huggingface/transformers
    python scripts/development/exports_in_javascript.py --modules modules EXPORT...

Each graph of each export is run in Node.js (20 or newer), from the folder, with nothing from the
network; tokens must be those of `tokenizers`, and outputs those of onnxruntime in Python to 0.0001
in fp32 and to 0.05 of the largest one in int8, which processors and versions round differently.
Of a text that is too long for the model, transformers.js also cuts the special token at the end, so
that there only the number of tokens must be the same. Then the code of the export's card is run as
it stands there, in both languages. The exit code is 1 where something is otherwise.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from distilcli.cards.card import HERE

TEXTS = [
    ["A film that one wants to see again."],
    ["The capital of France is Paris, isn't it?  \u00dcber 3.14 % \u4f60\u597d \U0001f600"],
    ["Where is it?", "It is in the garden, behind the house."],
    ["long " * 600],
]
FILES = {"fp32": "model.onnx", "q8": "model_quantized.onnx"}
_MJS = Path(__file__).with_suffix(".mjs")


def main() -> None:
    """See the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--modules", required=True, type=Path)
    wanted = parser.parse_args()
    failed = 0
    for folder in wanted.exports:
        for dtype, file in FILES.items():
            if (folder / "onnx" / file).exists():
                said = _compared(folder, dtype, wanted.modules)
                failed += not said.startswith("same")
                print(f"{folder} {dtype}: {said}", flush=True)
        for language in ("python", "js"):
            for code in _codes(folder, language):
                done = _run_code(code, language, folder, wanted.modules)
                failed += done.returncode != 0
                lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
                print(f"{folder} {language} of the card: {' '.join(lines)[-300:]}", flush=True)
    sys.exit(bool(failed))


def _compared(folder: Path, dtype: str, modules: Path) -> str:
    """`same` and the largest difference, or what is otherwise."""
    words = ["node", str(_MJS), str(modules), str(folder), dtype]
    done = subprocess.run(words, input=json.dumps(TEXTS), capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip()[-300:]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(folder / "onnx" / FILES[dtype])
    largest = 0.0
    for texts, found in zip(TEXTS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        encoded = tokenizer.encode(texts[0], texts[1] if len(texts) > 1 else None)
        if encoded.overflowing and len(encoded) == len(found["ids"]):
            continue
        if encoded.ids != found["ids"]:
            return f"other tokens of {texts[0][:60]}: {found['ids'][:60]}, not {encoded.ids[:60]}"
        largest = max(largest, _difference(session, encoded, found["outputs"]))
    return f"same to {largest:.1e}" if largest < {"fp32": 1e-4, "q8": 0.05}[dtype] else f"{largest}"


def _difference(session: Any, encoded: Any, found: dict[str, Any]) -> float:
    """The largest between an output of Python and of JavaScript, over 1 or the largest output."""
    inputs = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask}
    inputs["token_type_ids"] = encoded.type_ids
    shown = {one.name: np.array([inputs[one.name]]) for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    expected = dict(zip(names, session.run(names, shown), strict=True))
    assert set(found) == set(expected), (set(found), set(expected))
    return max(
        float(np.abs(values - np.array(found[name])).max() / max(1.0, np.abs(values).max()))
        for name, values in expected.items()
    )


def _codes(folder: Path, language: str) -> list[str]:
    """The code of the card; not that for transformers, which needs weights beside it."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)\n```", card, flags=re.DOTALL)
    return [block for block in blocks if language == "js" or "onnxruntime" in block]


def _run_code(
    code: str, language: str, folder: Path, modules: Path
) -> subprocess.CompletedProcess[str]:
    if language == "python":
        words = [sys.executable, "-c", code]
        return subprocess.run(words, cwd=folder, capture_output=True, text=True)
    local = (
        'import { env } from "@huggingface/transformers";\nenv.allowRemoteModels = false;\n'
        f"env.localModelPath = {json.dumps(str(folder.absolute().parent))};\n"
    )
    code = local + code.replace(HERE, folder.absolute().name)
    with tempfile.NamedTemporaryFile("w", suffix=".mjs", dir=modules, encoding="utf-8") as file:
        file.write(code)
        file.flush()
        return subprocess.run(["node", file.name], capture_output=True, text=True)


if __name__ == "__main__":
    main()
