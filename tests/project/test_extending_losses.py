"""What docs/extending.md shows of a loss is what the files have."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = ["losses/reverse_kl.py", "losses/embeddings.py", "losses/table.py", "config/losses.py"]


def test_code_of_the_worked_example_is_in_the_files() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    section = page.partition("\n## A loss\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    sources = [(ROOT / "distilcli" / name).read_text(encoding="utf-8") for name in FILES]
    known = {line for source in sources for line in source.splitlines()}
    assert len(lines) > 20
    assert [line for line in lines if line not in known] == []
