import pytest
from rich.console import Console
from titles import TITLES

from llmhd_pl.terminal import printable, shown


@pytest.mark.parametrize("title", TITLES)
def test_whatever_a_title_says_it_is_shown_as_it_is_on_one_line_of_visible_characters(
    title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = printable(title)
    assert line.isprintable() and len(line.encode()) >= len(line)
    Console(width=9999).print(shown(title))
    assert capsys.readouterr().out == line + "\n"


def test_what_cannot_be_seen_is_written_out() -> None:
    assert (
        printable("\x1b[31m a\u202e\u2028 \ud800\u200b b\xa0Köln 東京") == r"\x1b[31m a\u202e \ud800\u200b b Köln 東京"
    )
    assert printable(None) == "None"
