"""docs/extending.md: each part as it stands there, in a fit."""

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from llmhd_pl import LLMHD, MF, LexicalScorer, LossDropping
from llmhd_pl import __main__ as command
from llmhd_pl.callbacks import SampleRecorder
from llmhd_pl.denoising.store import NOISE

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """What the page defines, by name."""
    blocks = blocks_of("python")
    assert len(blocks) == 5 and all(block.rstrip().count("\n") < 32 for block in blocks)
    defined: dict[str, Any] = {"__name__": "extending"}
    for block in blocks:
        exec(block, defined)
    return defined


def fit(folder: Path, model: Any, data: Any, *callbacks: Any, epochs: int = 3) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=list(callbacks), max_epochs=epochs,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, data)
    return trainer


def test_the_data_set_and_the_backbone(parts: dict[str, Any], tmp_path: Path) -> None:
    data = parts["Clubs"](members=25, noise_ratio=0.1, batch_size=32)
    data.setup()
    assert len(data.train_users) == round(1.1 * 25 * 6) and data.num_items == 40
    model = parts["TwoHops"](25, 40, residual=0.3, embedding_dim=8, learning_rate=0.01)
    trainer = fit(tmp_path, model, data, *LossDropping(drop_rate=0.1, ramp_iterations=1))
    assert 0 < float(trainer.callback_metrics["val/ndcg@10"]) <= 1
    two_hops = model.graph(model.graph(model.embedding.weight))
    torch.testing.assert_close(model.final_embeddings(), 0.3 * model.embedding.weight + 0.7 * two_hops)


def test_the_denoiser_of_a_batch(parts: dict[str, Any], tmp_path: Path) -> None:
    denoiser = parts["ClippedLoss"](limit=0.5)
    assert denoiser.weigh({}, torch.tensor([0.25, 0.5, 2.0])).tolist() == [1.0, 1.0, 0.25]
    fit(tmp_path, MF(30, 40, embedding_dim=4), parts["Clubs"](), denoiser)
    assert [callback.limit for callback in parts["Clipping"](0.3)] == [0.3]


@pytest.mark.parametrize("line", "".join(blocks_of("bash")).splitlines())
def test_the_commands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current folder is found by the script, whose own folder is where Python is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    (tmp_path / "my_code.py").write_text("\n\n".join(blocks_of("python")), encoding="utf-8")
    importlib.invalidate_caches()
    program, *arguments = shlex.split(line)
    assert program == "llmhd"
    try:
        command.main([*arguments, "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--model.embedding_dim=4"])
    finally:
        sys.modules.pop("my_code", None)
    saved = Path("runs/version_0/config.yaml").read_text(encoding="utf-8")
    assert all(name in saved for name in re.findall(r"my_code\.\w+", line))


def test_the_denoiser_of_an_epoch(parts: dict[str, Any], tmp_path: Path) -> None:
    data = parts["Clubs"](noise_ratio=0.2)
    recorder, pruning = LossDropping(drop_rate=0.5, ramp_iterations=1)
    trainer = fit(tmp_path, MF(30, 40, embedding_dim=4), data, recorder, pruning, parts["KeepRareItems"](4))
    assert isinstance(recorder, SampleRecorder)
    rare = torch.bincount(data.train_items)[data.train_items] <= 4
    assert rare.any() and not (recorder.store.status == NOISE)[rare].any()
    dropped = recorder.store.weights == 0
    taken_back = float(trainer.callback_metrics["denoise/taken_back"])
    assert int(dropped.sum()) == float(trainer.callback_metrics["denoise/dropped"])
    assert int(dropped.sum()) == round(0.5 * len(data.train_users)) - taken_back and not dropped[rare].any()


def test_the_scorer(parts: dict[str, Any], tmp_path: Path) -> None:
    judge, data = parts["SameAuthor"](), parts["Clubs"](noise_ratio=0.1)
    method = LLMHD(judge, rule="consistent", drop_rate=0.3, ramp_iterations=1, confidence_epochs=1)
    assert method.scored == "candidates" and LLMHD(judge).scored == "all"  # it costs nothing
    trainer = fit(tmp_path, MF(30, 40, embedding_dim=4), data, *method, epochs=4)
    scores = {level: float(trainer.callback_metrics[f"llm/score_{level}"]) for level in range(1, 11)}
    assert scores[9] + scores[3] == sum(scores.values()) > 0
    judge.prepare([{"author": "A"}, {"author": "A"}, {"author": "B"}, {}], torch.empty(0, 2, dtype=torch.int64))
    answers = judge.score({0: [0, 1, 2]}, torch.tensor([[0, 0], [0, 2], [0, 3]]))
    assert answers[:2].tolist() == [9.0, 3.0] and answers[2].isnan()
    assert judge.revise({0: [0, 1]}, {0: [1]}, {}) == {0: [0]}


def test_lexical_scorer_takes_the_same_place(parts: dict[str, Any], tmp_path: Path) -> None:
    fit(tmp_path, MF(30, 40, embedding_dim=4), parts["Clubs"](), *LLMHD(LexicalScorer()))
