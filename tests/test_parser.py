"""Errors of the command line: short, and with a hint."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmhd_pl.audit.command import parser as audit_parser
from llmhd_pl.cli import main
from llmhd_pl.parser import hints


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (["--denoising", "LLMDH"], "There is no class LLMDH. Did you mean LLMHD? A class of your own"),
        (["--model", "LigthGCN"], "There is no class LigthGCN. Did you mean LightGCN?"),
        (
            ["--data", "Zebra"],
            "There is no class Zebra. A class of your own is named with its module: my_module.MyClass",
        ),
        (["--model.lr", "0.1"], "LightGCN has no argument lr: --model.help LightGCN lists those that it has."),
        (["--denoising.droprate", "1"], "LLMHD has no argument droprate: --denoising.help LLMHD lists"),
        (["--modle", "MF"], "unrecognized arguments: --modle MF"),
        (["--model", "LLMHD"], "LLMHD is nothing that model can be."),
        (
            ["--denoising.scorer", "LexicalScorer", "--denoising.scorer.foo", "3"],
            "LexicalScorer has no argument foo: --denoising.scorer.help LexicalScorer lists those that it has.",
        ),
    ],
)
def test_what_is_misspelt_is_said_in_a_few_lines(
    wrong: list[str], hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["llmhd"])
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "quickstart", *wrong])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count(hint) == 1 and "usage" not in said and len(said.splitlines()) < 30
    assert said.count("has no argument") <= 1 and said.count("There is no class") <= 1


def test_other_commands_are_as_short(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        audit_parser().parse_args(["--data", "SyntheticCatalog", "--scorer", "LexicalScorre"])
    assert "Did you mean LexicalScorer?" in (said := capsys.readouterr().err) and "usage" not in said
    with pytest.raises(SystemExit):
        audit_parser().parse_args(["--help"])
    assert "usage" in capsys.readouterr().out  # it is still there for those who ask


def test_a_message_without_a_hint_stays_as_it_is() -> None:
    assert hints("The data has no test interactions.") == []


def test_a_configuration_that_does_not_exist_is_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmhd_pl", "fit", "--config", "quikstart"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no file quikstart") and "Traceback" not in done.stderr
