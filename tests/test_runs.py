"""The folder of a run, what is written into it, and what decides which epoch is best."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from llmhd_pl.callbacks import EarlyStopping
from llmhd_pl.cli import settings
from llmhd_pl.datamodules import InteractionDataModule
from llmhd_pl.datamodules.interactions import Interactions
from train import main

SMALL = [
    *("--config", "quickstart", "--denoising", "null", "--trainer.accelerator", "cpu", "--data.num_readers", "60"),
    *("--data.num_books", "50", "--data.num_topics", "5", "--data.books_per_reader", "12", "--data.batch_size", "128"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()  # or the next test would log to this one's run


def fit(*more: str) -> Any:
    return main(["fit", *SMALL, "--trainer.max_epochs", "2", *more])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LAST = ["--ckpt_path", "runs/version_0/checkpoints/last.ckpt"]


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (["--model.l2", "0.5"], "model.init_args.l2"),
        (["--model.learning_rate", "0.5"], "model.init_args.learning_rate"),
        (["--data.negative_lifetime", "7"], "data.init_args.negative_lifetime"),
        (["--early_stopping.patience", "3"], "early_stopping.patience"),
        (["--denoising", "LossDropping"], "denoising"),
    ],
)
def test_a_run_with_other_settings_writes_into_its_own_folder(other: list[str], name: str) -> None:
    fit()
    before = content(Path("runs/version_0"))
    with pytest.warns(UserWarning, match=rf"not those of .*version_0/config\.yaml: .*{name}.* differ.*run of its own"):
        fit(*LAST, "--trainer.max_epochs", "4", *other)
    assert content(Path("runs/version_0")) == before
    assert torch.load("runs/version_1/checkpoints/last.ckpt")["epoch"] == 3
    assert Path("runs/version_1/checkpoints/best.ckpt").is_file()


def test_the_settings_of_the_command_hold_in_a_resumed_fit() -> None:
    """Lightning takes those in the checkpoint instead, without a word."""
    fit()
    with pytest.warns(UserWarning, match="learning_rate"):
        cli = fit(*LAST, "--trainer.max_epochs", "3", "--model.learning_rate", "0.5")
    saved = yaml.safe_load(Path("runs/version_1/config.yaml").read_text())
    assert cli.model.learning_rate == saved["model"]["init_args"]["learning_rate"] == 0.5
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0.5


def test_the_same_run_goes_on_in_its_folder_also_longer_and_logged_elsewhere() -> None:
    fit()
    fit(*LAST, "--trainer.max_epochs", "4", "--trainer.logger.init_args.name", "others")
    assert torch.load("runs/version_0/checkpoints/last.ckpt")["epoch"] == 3
    assert not list(Path("others").rglob("*.ckpt"))


def test_settings_leave_out_what_does_not_make_a_run() -> None:
    config = {"ckpt_path": "a", "trainer": {"max_epochs": 3, "logger": {"a": 1}, "precision": "32"}, "seed": 1}
    assert settings({"fit": config}) == settings(config) == {"trainer.precision": "32", "seed": 1}
    assert settings({"a": {}, "b": {"c": [1]}}) == {"a": {}, "b.c": [1]}


WANDB = ["--trainer.logger", "llmhd_pl.callbacks.WandbLogger", "--trainer.logger.offline", "true"]


@pytest.mark.parametrize(
    "logger",
    [["--trainer.logger", "false"], WANDB, [*WANDB, "--trainer.logger.save_dir", "null"], ["--trainer.logger", "true"]],
    ids=["none", "wandb", "wandb without save_dir", "lightning's"],
)
def test_every_run_has_a_folder_of_its_own_whatever_the_logger(logger: list[str], tmp_path: Path) -> None:
    fit(*logger)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")}
    assert sorted(path.name for path in first) == ["best.ckpt", "last.ckpt"]
    fit(*logger, "--seed_everything", "1")
    folders = {path.parent.parent for path in tmp_path.rglob("*.ckpt")}
    assert len(folders) == 2
    assert all(path.read_bytes() == before for path, before in first.items())
    assert all((folder / "config.yaml").is_file() and (folder / "metrics.csv").is_file() for folder in folders)
    assert not list(tmp_path.glob("*.ckpt")) and not (tmp_path / "config.yaml").exists()


def test_a_run_of_wandb_that_is_in_progress_is_not_torn_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    fit(*WANDB)
    fit("--trainer.logger", "llmhd_pl.callbacks.WandbLogger")  # in the same process, as in a notebook
    assert len(list(Path("runs").glob("version_*"))) == 2


def test_without_a_cutoff_of_ten_another_one_is_watched() -> None:
    cli = fit("--model.ks", "[3,7]")
    assert {callback.monitor for callback in cli.trainer.early_stopping_callbacks} == {"val/ndcg@7"}
    assert cli.trainer.checkpoint_callback.monitor == "val/ndcg@7"
    best = float(cli.trainer.checkpoint_callback.best_model_score)
    assert best == pytest.approx(pd.read_csv("runs/version_0/metrics.csv")["val/ndcg@7"].max(), abs=1e-7)


def test_without_validation_all_epochs_are_trained_and_the_last_is_best() -> None:
    with pytest.warns(UserWarning, match=r"no validation \(limit_val_batches is 0\): training takes all 3 epochs"):
        cli = fit("--trainer.limit_val_batches", "0", "--trainer.max_epochs", "3")
    assert not [callback for callback in cli.trainer.callbacks if isinstance(callback, EarlyStopping)]
    assert torch.load("runs/version_0/checkpoints/best.ckpt")["epoch"] == 2
    assert "test/ndcg@10" in cli.trainer.callback_metrics


class OneEach(InteractionDataModule):
    """Every user has one interaction, so that none is left to validate or test with."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)

    def load(self) -> Interactions:
        train = torch.stack([torch.arange(9), torch.arange(9) % 4], dim=1)
        return Interactions("one each", 9, 4, train, train[:0], train[:0])


def one_each(cases: Path) -> list[str]:
    return ["--data", "AtomicFiles", "--data.data_dir", str(cases / "everyone-has-one")]


def test_users_with_one_interaction_each() -> None:
    arguments = ["--model", "MF", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
    with pytest.warns(UserWarning) as warned:
        cli = main(["fit", "--data", f"{__name__}.OneEach", *arguments])
    said = " ".join(str(warning.message) for warning in warned)
    assert "no validation (the data has no validation interactions)" in said and "no test interactions" in said
    assert cli.trainer.current_epoch == 2
    assert Path("runs/version_0/checkpoints/best.ckpt").is_file()
    cases = Path(__file__).parent.parent.parent / "shared" / "cases"
    if not cases.is_dir():
        pytest.skip("needs ../shared/cases for the rest")
    assert main(["fit", *one_each(cases), *arguments]).trainer.current_epoch == 2


def test_validation_every_second_epoch() -> None:
    cli = fit("--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "4")
    assert cli.trainer.current_epoch == 4
    assert torch.load("runs/version_0/checkpoints/best.ckpt")["epoch"] in (1, 3)


def test_a_metric_that_was_chosen_is_left_alone() -> None:
    cli = fit("--checkpoint.monitor", "val/recall@5", "--early_stopping.monitor", "train/loss")
    assert cli.trainer.checkpoint_callback.monitor == "val/recall@5"
    assert cli.trainer.early_stopping_callback.monitor == "train/loss"
