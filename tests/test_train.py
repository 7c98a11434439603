from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning import seed_everything

from llmhd_pl import bundled, compare
from train import main

CONFIGS = Path(__file__).parent.parent / "configs"
TINY = [
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])


SIZES = {"num_readers": 60, "num_books": 50, "num_topics": 5, "books_per_reader": 12, "batch_size": 128}
SMALL = [part for name, size in SIZES.items() for part in (f"--data.{name}", str(size))]


def small_catalog(*more: str) -> list[str]:
    return ["--config", str(CONFIGS / "quickstart.yaml"), "--denoising", "null", *TINY, *SMALL, *more]


def without_a_hub(config: Path) -> dict[str, Any]:
    """The encoder is on a hub; its configs run with the scorer that needs no model."""
    loaded: dict[str, Any] = yaml.safe_load(config.read_text())
    arguments = loaded.get("denoising", {}).get("init_args", {})
    if "EncoderScorer" in arguments.get("scorer", {}).get("class_path", ""):
        arguments["scorer"] = {"class_path": "llmhd_pl.llm.lexical.LexicalScorer"}
    return loaded


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_runs(config: Path, rlmrec_folder: Path, atomic_folder: Path, tmp_path: Path, capsys: Any) -> None:
    loaded = without_a_hub(config)
    offline = tmp_path / config.name
    offline.write_text(yaml.safe_dump(loaded, sort_keys=False))
    arguments = ["fit", "--config", str(offline), *TINY]
    source = loaded["data"]["class_path"].rpartition(".")[2]
    if source == "AtomicFiles":
        arguments += ["--data.data_dir", str(atomic_folder)]
    elif source == "SyntheticCatalog":
        arguments += SMALL  # the command that runs it whole has a test of its own
    else:
        arguments += ["--data.data_dir", str(rlmrec_folder)]
    cli = main(arguments)
    assert cli.model.num_users == cli.datamodule.num_users and cli.model.num_items == cli.datamodule.num_items
    assert cli.datamodule.seed == loaded["seed_everything"]
    assert {"test/ndcg@10", "test/recall@5"} <= cli.trainer.callback_metrics.keys()
    assert "test/ndcg@10" in capsys.readouterr().out
    assert Path("runs/version_0/checkpoints/best.ckpt").is_file()


WANTED = {
    "llmhd": ["SampleRecorder", "VariancePruning", "LLMSampleScorer", "NoiseAudit"],
    "t-ce": ["TruncatedLoss"],
    "r-ce": ["ReweightedLoss"],
    "dcf": ["DoubleCorrection"],
}
OVERLAYS = sorted([*CONFIGS.glob("methods/*.yaml"), *CONFIGS.glob("backbones/*.yaml")])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_method_and_backbone_is_laid_over_a_config(overlay: Path, rlmrec_folder: Path, tmp_path: Path) -> None:
    loaded = without_a_hub(overlay)
    offline = tmp_path / overlay.name
    offline.write_text(yaml.safe_dump(loaded, sort_keys=False))
    configs = ["--config", str(CONFIGS / "lightgcn.yaml"), "--config", str(offline)]
    cli = main(["fit", *configs, *TINY, "--data.data_dir", str(rlmrec_folder)])
    wanted = WANTED.get(overlay.stem, [])
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert [name for name in names if name in wanted] == wanted
    model = loaded.get("model", {})
    assert type(cli.model).__name__ == model.get("class_path", "LightGCN").rpartition(".")[2]
    assert cli.model.hparams.objective == model.get("init_args", {}).get("objective", "bpr")
    assert "test/ndcg@10" in cli.trainer.callback_metrics


@pytest.mark.parametrize("name", bundled.names(bundled.GRIDS))
def test_every_grid_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    grid = compare.Grid.load(name)
    assert len({run.name for run in grid.runs()}) == len(grid.runs()) > 0
    compare.unfinished(grid)  # a result of another configuration would be an error


def test_the_data_sets_share_a_config(rlmrec_folder: Path) -> None:
    for name in ("Steam", "AmazonBooks"):
        arguments = ["--config", "lightgcn", "--data", name, "--data.data_dir", str(rlmrec_folder), *TINY]
        cli = main(["fit", *arguments, "--trainer.limit_train_batches", "1"])
        assert type(cli.datamodule).__name__ == name
        assert (cli.datamodule.batch_size, cli.datamodule.negative_lifetime) == (1024, 1)


def test_the_flags_that_ml_100k_names_give_its_other_protocol(atomic_folder: Path) -> None:
    text = (CONFIGS / "ml-100k.yaml").read_text().partition("instead, 5 % noise")[2].partition("seed_everything")[0]
    flags = text.partition("data/ml-100k ")[2].replace("#", "").replace("\\", "").split()
    cli = main(["fit", "--config", "ml-100k", *flags, "--data.data_dir", str(atomic_folder), *TINY])
    data, model = cli.datamodule, cli.model.hparams
    assert (data.noise_below, data.held_out_from, data.rating_threshold, data.k_core) == (None, None, 3, 5)
    assert (data.noise_ratio, data.noise_source) == (0.05, "low_rating")
    assert (model.objective, model.learning_rate, model.l2) == ("bpr", 0.005, 0.001)
    assert cli.config.fit.early_stopping.patience == 15


def test_validate_test_and_predict_from_a_checkpoint() -> None:
    fitted = main(["fit", *small_catalog("--trainer.max_epochs", "3")])
    tested = {name: float(value) for name, value in fitted.trainer.callback_metrics.items() if "test/" in name}
    best = fitted.trainer.checkpoint_callback.best_model_path
    validated = main(["validate", *small_catalog("--ckpt_path", best)])
    assert float(validated.trainer.callback_metrics["val/ndcg@10"]) == pytest.approx(
        float(fitted.trainer.checkpoint_callback.best_model_score), abs=0
    )
    again = main(["test", *small_catalog("--ckpt_path", best)])
    assert {name: float(again.trainer.callback_metrics[name]) for name in tested} == tested
    main(["predict", *small_catalog("--ckpt_path", best, "--predictions.path", "topk.parquet")])
    table = pd.read_parquet("topk.parquet")
    assert table.groupby("user").size().tolist() == [20] * 60


def test_the_checkpoint_is_the_best_epoch_and_training_stops_early() -> None:
    arguments = [
        "--trainer.limit_train_batches",
        "null",
        "--trainer.max_epochs",
        "60",
        "--early_stopping.patience",
        "2",
    ]
    cli = main(["fit", *small_catalog(*arguments, "--model.learning_rate", "0.1")])
    curve = pd.read_csv("runs/version_0/metrics.csv")["val/ndcg@10"].dropna()
    assert cli.trainer.current_epoch < 60
    assert len(curve) == curve.reset_index(drop=True).idxmax() + 1 + 2
    assert float(cli.trainer.checkpoint_callback.best_model_score) == pytest.approx(curve.max(), abs=1e-7)
    # weights_only: a checkpoint holds tensors and plain Python, nothing that a pickle could run
    saved = torch.load("runs/version_0/checkpoints/best.ckpt", weights_only=True)
    assert saved["epoch"] == curve.reset_index(drop=True).idxmax()


def test_same_seed_same_numbers_other_seed_others() -> None:
    runs = []
    for seed in ("1", "1", "2"):
        cli = main(["fit", *small_catalog("--seed_everything", seed)])
        runs.append({name: float(value) for name, value in cli.trainer.callback_metrics.items()})
    assert runs[0] == runs[1] != runs[2]


def test_wandb_works_offline_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    main(["fit", *small_catalog("--trainer.logger+=llmhd_pl.callbacks.WandbLogger")])
    assert list(Path("wandb").glob("offline-run-*"))
    assert Path("runs/version_0/metrics.csv").is_file()


def test_bad_input_is_named(rlmrec_folder: Path, capsys: Any) -> None:
    config = str(CONFIGS / "lightgcn.yaml")
    with pytest.raises(FileNotFoundError, match=r"nowhere.*data_dir"):
        main(["fit", "--config", config, *TINY, "--data.data_dir", "nowhere"])
    with pytest.raises(SystemExit):
        main(["fit", "--config", config, *TINY, "--model.num_layer", "3"])
    assert "num_layer" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_resumed_run_remembers_its_best_epoch_and_its_patience() -> None:
    """The best epoch lies before the interruption, so nothing after it may replace the checkpoint."""
    overfitting = ["--trainer.limit_train_batches", "null", "--model.learning_rate", "0.1", "--early_stopping.patience"]
    whole = main(["fit", *small_catalog(*overfitting, "4", "--trainer.max_epochs", "60")])
    stopped, best = whole.trainer.current_epoch, torch.load("runs/version_0/checkpoints/best.ckpt")["epoch"]
    main(["fit", *small_catalog(*overfitting, "4", "--trainer.max_epochs", str(best + 3))])
    seed_everything(123)  # whatever the state of the process, only the checkpoint counts
    last = "runs/version_1/checkpoints/last.ckpt"
    again = main(["fit", *small_catalog(*overfitting, "4", "--trainer.max_epochs", "60", "--ckpt_path", last)])
    assert again.trainer.current_epoch == stopped
    assert Path(again.trainer.checkpoint_callback.best_model_path).samefile("runs/version_1/checkpoints/best.ckpt")
    for cli in (whole, again):
        cli.results = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert again.results == whole.results
