"""Code of the user's own in a comparison: when it changes, neither records nor half-done runs speak for it."""

import sys
from pathlib import Path

import pytest
from test_compare import Fits, grid

from llmhd_pl import compare
from llmhd_pl.compare import Grid, records
from llmhd_pl.compare.code import class_paths, code_digest

OWN = {"own": {"trainer": {"callbacks": [{"class_path": "my_losses.Clipped"}]}}, "BPR": {}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text("class Clipped: ...")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "scorers.py").write_text("class Same: ...")
    return tmp_path


def test_modules_and_packages_of_ones_own_have_a_hash_and_installed_ones_none(folder: Path) -> None:
    assert code_digest("torch.optim.Adam", "llmhd_pl.LLMHD", "json.JSONEncoder", "LightGCN", "nowhere.Nothing") is None
    one, two = code_digest("my_losses.Clipped"), code_digest("my_losses.Clipped", "my_package.scorers.Same", "LLMHD")
    assert one and two and one != two
    assert code_digest("my_losses.Another", "torch.nn.Linear") == one
    (folder / "my_package" / "helpers.py").write_text("")
    assert code_digest("my_losses.Clipped", "my_package.scorers.Same") != two  # all of a package counts
    (folder / "my_losses.py").write_text("class Clipped: pass")
    assert code_digest("my_losses.Clipped") != one


def test_classes_are_found_wherever_they_are_named(folder: Path) -> None:
    part = {"model": {"class_path": "a.B", "init_args": {"inner": [{"class_path": "c.d"}]}}, "denoising": "e.f.G"}
    assert class_paths([part, "h.I", "data.csv", "runs/x.Y", "0.2", 3, None]) == ["a.B", "c.d", "e.f.G", "h.I"]
    path = grid(folder, seeds=[0], methods=OWN, arguments=["--denoising", "my_package.scorers.Same"])
    path = grid(
        folder,
        seeds=[0],
        methods=OWN,
        arguments=["--denoising", "{class_path: my_package.scorers.Same}", "--a=[my_losses.Clipped]"],
    )
    digests = {run.method: Grid.load(path).code_digest(run) for run in Grid.load(path).runs()}
    assert digests["own"] == code_digest("my_losses.Clipped", "my_package.scorers.Same")
    assert digests["BPR"] == digests["own"]


def test_what_is_installed_for_one_user_is_no_code_of_ones_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = folder / ".local" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "their_losses.py").write_text("")
    (folder / "archive.zip").write_bytes(b"")
    monkeypatch.setattr("sys.path", [*sys.path, str(installed), str(folder / "archive.zip")])
    assert code_digest("their_losses.Loss") is None


def test_runs_of_other_code_begin_anew_and_records_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fits, path = Fits(monkeypatch), grid(folder, seeds=[0], methods=OWN, output="out")

    def start() -> str:
        compare.main(["--config", str(path)])
        return " ".join(capsys.readouterr().out.split())

    fits.fail = True
    with pytest.raises(SystemExit, match="2 of 2 runs failed"):
        start()
    (folder / "my_losses.py").write_text("class Clipped: fixed = True")
    fits.fail, fits.started = False, []
    assert "Your code has changed" not in start()
    resumed = [any(argument.startswith("--ckpt_path=") for argument in command) for command in fits.started]
    assert sorted(resumed) == [False, True]  # the run without code of one's own goes on
    recorded = {record["method"]: "code_digest" in record for record in records.read(folder / "out" / "grid.jsonl")}
    assert recorded == {"own": True, "BPR": False}

    assert "Your code has changed" not in start()
    (folder / "my_losses.py").write_text("class Clipped: fixed = False")
    fits.started = []
    said = start()
    assert "Your code has changed since these runs were recorded: own-lightgcn-noise0.1-seed0. Their" in said
    assert not fits.started
    (folder / "my_losses.py").unlink()  # as where the records are looked at elsewhere
    assert "Your code has changed" not in start()
