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
from llmhd_pl.datamodules import InteractionDataModule
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.run_files import settings
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


@pytest.mark.filterwarnings("ignore:The settings are not those")
def test_the_model_of_another_run_is_never_tested_as_that_of_this_one() -> None:
    fit()
    nothing = r"Nothing was trained: .*last\.ckpt, which is of another run, has all that --trainer.max_epochs and"
    with pytest.raises(RuntimeError, match=nothing):
        fit(*LAST, "--model.l2", "0.5")
    fit(*LAST)  # of the same run it is the best checkpoint
    with pytest.warns(UserWarning, match="no best checkpoint.*tested as training has left it"):
        trained = fit(*LAST, "--trainer.max_epochs", "3", "--checkpoint.save_top_k", "0")
    reported = trained.trainer.callback_metrics["test/ndcg@10"].item()
    (as_left,) = trained.trainer.test(trained.model, trained.datamodule, "runs/version_3/checkpoints/last.ckpt")
    (of_the_other,) = trained.trainer.test(trained.model, trained.datamodule, "runs/version_0/checkpoints/best.ckpt")
    assert reported == as_left["test/ndcg@10"] != of_the_other["test/ndcg@10"]


@pytest.mark.filterwarnings("ignore:The settings are not those")
def test_nor_where_both_write_into_the_same_folder() -> None:
    folder = ["--checkpoint.dirpath", "same", "--last_checkpoint.dirpath", "same"]
    best = fit(*folder).trainer.callback_metrics["test/ndcg@10"].item()
    with pytest.raises(RuntimeError, match="Nothing was trained"):
        fit(*folder, "--ckpt_path", "same/last.ckpt", "--model.l2", "0.5")
    # A learning rate that is much too high: no epoch is better than what the other run has left.
    more = [*folder, "--ckpt_path", "same/last.ckpt", "--model.learning_rate", "9.0", "--trainer.max_epochs", "3"]
    with pytest.warns(UserWarning, match="no best checkpoint.*tested as training has left it"):
        worse = fit(*more).trainer.callback_metrics["test/ndcg@10"].item()
    assert worse != best


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


def test_a_run_that_max_steps_ends_before_a_validation_is_saved_and_tested() -> None:
    with pytest.warns(UserWarning, match="no best checkpoint, because training ended before a validation"):
        cli = fit("--trainer.max_steps", "2")
    assert torch.load("runs/version_0/checkpoints/last.ckpt")["global_step"] == 2
    assert "test/ndcg@10" in cli.trainer.callback_metrics
    with pytest.raises(RuntimeError, match="`val/ndgc@10` which is not available"):
        fit("--early_stopping.monitor", "val/ndgc@10")


LEARNING = ["--model.learning_rate", "0.05", "--trainer.max_epochs", "4", "--early_stopping.patience", "20"]


@pytest.mark.parametrize(
    "interval",
    [
        ["--trainer.val_check_interval", "0.4"],
        ["--trainer.val_check_interval", "3", "--trainer.check_val_every_n_epoch", "null"],
    ],
    ids=["part of an epoch", "steps"],
)
@pytest.mark.parametrize("method", [[], ["--denoising", "LossDropping"]], ids=["plain", "denoised"])
def test_the_best_checkpoint_is_the_model_that_was_validated_also_within_an_epoch(
    interval: list[str], method: list[str]
) -> None:
    arguments = [*LEARNING, *interval, *method]
    whole = fit(*arguments)
    best = whole.config_init.fit.checkpoint
    last = torch.load("runs/version_0/checkpoints/last.ckpt")
    curve = pd.read_csv("runs/version_0/metrics.csv")["val/ndcg@10"]
    assert float(best.best_model_score) == pytest.approx(curve.max(), abs=1e-7)
    validated = main(["validate", *SMALL, *LEARNING, "--ckpt_path", best.best_model_path])
    assert float(validated.trainer.callback_metrics["val/ndcg@10"]) == float(best.best_model_score)
    # A fit that is resumed from there ends where the whole one ended.
    ends = {name: float(value) for name, value in whole.trainer.callback_metrics.items()}
    again = fit(*arguments, "--ckpt_path", "runs/version_0/checkpoints/best.ckpt")
    assert {name: float(value) for name, value in again.trainer.callback_metrics.items()} == ends
    resumed = torch.load("runs/version_0/checkpoints/last.ckpt")
    assert resumed["global_step"] == last["global_step"]
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in last["state_dict"].items())


def test_the_best_checkpoint_of_whole_epochs_holds_what_was_decided_at_their_end() -> None:
    cli = fit(*LEARNING, "--trainer.check_val_every_n_epoch", "2", "--denoising", "LossDropping")
    (state,) = (
        state
        for name, state in torch.load("runs/version_0/checkpoints/best.ckpt")["callbacks"].items()
        if name == "SampleRecorder"
    )
    assert state["decided"] == torch.load(cli.config_init.fit.checkpoint.best_model_path)["epoch"]


def test_without_validation_the_interval_between_validations_means_nothing() -> None:
    fit("--trainer.limit_val_batches", "0", "--trainer.val_check_interval", "0.4")
    assert torch.load("runs/version_0/checkpoints/best.ckpt")["epoch"] == 1


def test_another_checkpoint_does_not_take_part_in_the_test() -> None:
    """It comes first in the trainer's list."""
    results = []
    another = "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint"
    for more in ([], [another, "--trainer.callbacks.every_n_epochs", "2"]):
        cli = fit("--model.learning_rate", "0.2", "--trainer.max_epochs", "8", "--early_stopping.patience", "20", *more)
        results.append({name: float(value) for name, value in cli.trainer.callback_metrics.items()})
    assert Path(cli.trainer.checkpoint_callback.best_model_path).name != "best.ckpt"
    assert torch.load("runs/version_1/checkpoints/best.ckpt")["epoch"] < 7
    assert results[0] == results[1]


@pytest.mark.parametrize(("name", "keep"), [("checkpoint", "3"), ("checkpoint", "-1"), ("last_checkpoint", "-1")])
def test_several_checkpoints_are_not_written_to_one_file(name: str, keep: str, capsys: Any) -> None:
    several = [f"--{name}.save_top_k", keep]
    with pytest.raises(SystemExit) as ended:
        fit(*several)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"--{name}.save_top_k is {keep}" in said and f"--{name}.filename" in said
    assert not Path("runs").exists()
    cli = fit(*several, f"--{name}.filename", "{epoch}-{step}")
    assert len(list(Path("runs/version_0/checkpoints").glob("epoch=*.ckpt"))) == 2
    if name == "checkpoint":
        curve = pd.read_csv("runs/version_0/metrics.csv")["val/ndcg@10"].dropna()
        tested = cli.config_init.fit.checkpoint
        assert float(tested.best_model_score) == pytest.approx(curve.max(), abs=1e-7)
        assert torch.load(tested.best_model_path)["epoch"] == curve.reset_index(drop=True).idxmax()


def test_none_or_one_best_checkpoint() -> None:
    with pytest.warns(UserWarning, match="no best checkpoint, because .* none was to be saved"):
        fit("--checkpoint.save_top_k", "0")
    assert [path.name for path in Path("runs/version_0/checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_needs_a_checkpoint(command: str, capsys: Any) -> None:
    """Lightning would evaluate a model that was never trained."""
    with pytest.raises(SystemExit) as ended:
        main([command, *SMALL])
    assert ended.value.code == 2 and not Path("runs").exists()
    said = capsys.readouterr().err
    assert f"no model to {command}" in said and "--ckpt_path runs/version_0/checkpoints/best.ckpt" in said


BEST = ["--ckpt_path", "runs/version_0/checkpoints/best.ckpt"]


def said_about_settings(warned: Any) -> str:
    return " ".join(str(each.message) for each in warned if "settings of the model" in str(each.message))


@pytest.mark.parametrize("given", [[3, 30], [5, 10, 20]], ids=["others", "those of the class"])
def test_an_evaluation_takes_the_cutoffs_that_it_is_given(given: list[int], recwarn: Any) -> None:
    fit("--model.ks", "[4,6]", "--model.learning_rate", "0.05")
    tested = main(["test", *SMALL, *BEST, "--model.ks", str(given)])
    assert set(tested.trainer.callback_metrics) == {f"test/{name}@{k}" for name in ("ndcg", "recall") for k in given}
    main(["predict", *SMALL, *BEST, "--model.ks", str(given), "--predictions.path", "top.parquet"])
    assert pd.read_parquet("top.parquet").groupby("user").size().max() == given[-1]
    without = main(["test", *SMALL, *BEST])
    assert {"test/ndcg@4", "test/ndcg@6"} <= without.trainer.callback_metrics.keys()
    assert "ks is" not in said_about_settings(recwarn)


def test_an_evaluation_says_which_settings_the_checkpoint_has_replaced(recwarn: Any) -> None:
    fit("--model.embedding_dim", "16")
    recwarn.clear()
    main(["test", *SMALL, *BEST, "--model", "LightGCN", "--model.embedding_dim", "16"])  # in the file by another path
    main(["test", "--config", "runs/version_0/config.yaml", *BEST])
    assert said_about_settings(recwarn) == ""
    other = ["--model.l2", "0.5", "--model.embedding_dim", "32"]
    with pytest.warns(UserWarning, match=r"settings of the model are those in runs/version_0/.*best\.ckpt") as warned:
        cli = main(["test", *SMALL, *BEST, *other])
    said = said_about_settings(warned)
    assert "model.init_args.embedding_dim is 16, not 32" in said and "model.init_args.l2 is 0.001, not 0.5" in said
    assert cli.model.hparams.embedding_dim == 16 and "ks is" not in said
    with pytest.warns(UserWarning, match=r"model\.class_path is LightGCN, not MF"):
        main(["test", *SMALL, "--model", "MF", *BEST])
