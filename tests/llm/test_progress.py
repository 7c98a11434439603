import io
import re
import time
from typing import Any

from rich.console import Console

from llmhd_pl.llm.progress import AskingBar


def test_the_bar_shows_the_speed() -> None:
    bar = AskingBar("pairs", 10)
    with bar as advance:
        for _ in range(4):
            time.sleep(0.01)
            advance(2)
        console = Console(width=200, file=io.StringIO(), force_terminal=True)
        assert bar.progress is not None
        console.print(bar.progress.get_renderable())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"8/10.*[1-9][0-9]*/s", shown)


def test_a_log_file_gets_no_empty_lines(capsys: Any) -> None:
    with AskingBar("pairs", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
