"""The Python of docs/llm.md, run from top to bottom."""

import re
from pathlib import Path
from typing import Any

import pytest
from test_endpoint import Server, probable, server  # noqa: F401 - a fixture

DOCS = Path(__file__).parents[2] / "docs"


def test_the_snippets_run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    plain = server.answer
    server.answer = lambda number, asked: (probable if "logprobs" in asked else plain)(number, asked)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / "llm.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 3
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet.replace("http://localhost:8000/v1", server.url), names)
    assert names["profile"] == "Elsewhere | author: Gabrielle Zevin" and names["profile"] in names["prompt"]
    assert names["known"] == {names["prompt"]: "<s>7</s>"}
    assert (tmp_path / "answers.jsonl").read_text().count("\n") == 1
    assert names["preferences"] == {0: "Likes otters."}
    assert names["scores"].tolist() == pytest.approx([(8 * 2 + 6) / 3])
