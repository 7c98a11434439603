"""A number that is not finite ends the run where it arises: it is never recorded, ranked, saved as best, or written."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from llmhd_pl.backbones import MF
from llmhd_pl.callbacks import SampleRecorder, TopKWriter
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.finite import FiniteCheck, check_parameters, check_predictions
from llmhd_pl.metrics import rank_hits
from llmhd_pl.sample_weights import SampleWeights
from train import main

BAD = [torch.nan, torch.inf, -torch.inf]


def catalog() -> SyntheticCatalog:
    return SyntheticCatalog(40, 50, num_topics=5, books_per_reader=12, batch_size=60)


def trainer(folder: Path, *callbacks: Any, **more: Any) -> Trainer:
    arguments: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False} | more
    return Trainer(accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **arguments)


@pytest.mark.parametrize("bad", BAD)
def test_a_value_on_the_cpu_is_named_at_once(bad: float) -> None:
    check = FiniteCheck("losses")
    check.see(torch.tensor([1.0, 2.0]), 3, 6)
    with pytest.raises(
        FloatingPointError, match=r"Epoch 3, step 7: the losses are not finite .*Lower the learning rate"
    ):
        check.see(torch.tensor([1.0, bad]), 3, 7)


def test_elsewhere_the_first_step_is_named_at_the_end() -> None:
    class Elsewhere(SimpleNamespace):
        device = SimpleNamespace(type="cuda")

    def on_a_gpu(*values: float) -> Any:
        return Elsewhere(isfinite=torch.tensor(values).isfinite)

    check = FiniteCheck("losses")
    for step, value in enumerate([1.0, 2.0, torch.nan, 3.0, torch.inf]):
        check.see(on_a_gpu(value), 0, step)
    with pytest.raises(FloatingPointError, match="Epoch 0, step 2: the losses"):
        check.verify(0)
    check.verify(1)  # said once
    check.see(on_a_gpu(1.0), 1, 5)
    check.verify(1)


def test_predictions_are_checked_before_they_are_ranked() -> None:
    nothing = torch.empty(2, 0, dtype=torch.int64)
    relevant = torch.tensor([[0], [1]])
    for bad in (torch.nan, torch.inf):
        scores = torch.zeros(2, 3)
        scores[1, 2] = bad
        with pytest.raises(FloatingPointError, match="here: predictions are not finite"):
            rank_hits(scores, nothing, relevant, 2, "here")
    with pytest.raises(FloatingPointError):
        check_predictions(torch.full((1, 3), -torch.inf), "here")  # an order of which nothing is known
    check_predictions(torch.tensor([[-torch.inf, 0.0]]), "here")  # an item that is left out
    check_predictions(torch.empty(0, 3), "here")


@pytest.mark.parametrize("bad", BAD)
def test_a_parameter_is_named(bad: float) -> None:
    model = MF(3, 4, 2)
    check_parameters(model, "Epoch 1")
    with torch.no_grad():
        model.embedding.weight[2, 1] = bad
    with pytest.raises(FloatingPointError, match=r"Epoch 1: the parameter embedding\.weight is not finite"):
        check_parameters(model, "Epoch 1")


@pytest.mark.parametrize("learning_rate", ["1e30", "1e25"])
def test_a_run_that_diverges_ends_with_epoch_step_and_remedy(
    learning_rate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    sizes = ["--data.num_readers=60", "--data.num_books=50", "--data.num_topics=5", "--trainer.max_epochs=3"]
    with pytest.raises(FloatingPointError, match=r"[Ee]poch \d, step \d+.*Lower the learning rate"):
        main(["fit", "--config", "quickstart", "--denoising=null", *sizes, f"--model.learning_rate={learning_rate}"])
    assert not list(tmp_path.rglob("*.ckpt"))


class Diverging(MF):
    """Learns for two epochs, then takes a step to nowhere; ``where`` is "loss" or "last step"."""

    where = "loss"

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 2 and self.where == "loss":
            for group in self.optimizers().param_groups:  # type: ignore[union-attr]
                group["lr"] = 1e30

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = batch_idx == self.trainer.num_training_batches - 1
        if self.current_epoch == 2 and self.where == "last step" and last:
            self.embedding.weight.data[0] = torch.nan


@pytest.mark.parametrize("where", ["loss", "last step"])
@pytest.mark.parametrize("validated", [True, False])
def test_the_last_good_checkpoint_stays(tmp_path: Path, where: str, validated: bool) -> None:
    saved = {"enable_version_counter": False, "save_on_train_epoch_end": True}
    best = ModelCheckpoint(tmp_path, "best", "val/ndcg@10" if validated else None, mode="max", **saved)
    last = ModelCheckpoint(tmp_path, "last", **saved)
    model = Diverging(40, 50, 8, learning_rate=0.05)
    model.where = where
    limits = {} if validated else {"limit_val_batches": 0}
    with pytest.raises(FloatingPointError, match="poch 2"):
        trainer(tmp_path, best, last, max_epochs=4, **limits).fit(model, catalog())
    for name in ("best", "last"):
        checkpoint = torch.load(tmp_path / f"{name}.ckpt")
        assert checkpoint["epoch"] <= 1 and checkpoint["state_dict"]["embedding.weight"].isfinite().all()
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 1


def test_validate_test_and_predict_refuse_a_model_that_is_not_finite(tmp_path: Path) -> None:
    model = MF(40, 50, 8)
    with torch.no_grad():
        model.embedding.weight[5] = torch.nan
    path = tmp_path / "topk.parquet"
    for use in ("validate", "test", "predict"):
        with pytest.raises(FloatingPointError, match="predictions are not finite"):
            getattr(trainer(tmp_path, TopKWriter(str(path))), use)(model, datamodule=catalog())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("what", ["losses", "positive_score", "negative_score"])
def test_what_a_module_of_ones_own_returns_is_checked_before_it_is_recorded(
    tmp_path: Path, what: str, bad: float
) -> None:
    """A loss of NaN would pass for a sample that was not seen."""

    class Own(SampleWeights, LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            losses = torch.rand(len(batch["sample"])) * self.scale
            loss = (self.sample_weights(batch, losses) * losses).mean()
            values = {"losses": losses.detach(), "positive_score": torch.rand(len(losses)), "negative_score": losses}
            values = {name: value.detach().clone() for name, value in values.items()}
            if self.current_epoch == 1 and batch_idx == 2:
                values[what][0] = bad
            return {"loss": loss, **values}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    fit = trainer(tmp_path, SampleRecorder(), max_epochs=3, limit_val_batches=0, enable_checkpointing=False)
    with pytest.raises(FloatingPointError, match=r"Epoch 1, step \d+: .*training_step returned are not finite"):
        fit.fit(Own(), catalog())


@pytest.mark.parametrize("what", ["losses", "positive_score", "negative_score"])
def test_what_a_child_of_a_backbone_returns_is_checked(tmp_path: Path, what: str) -> None:
    """A backbone's own step has been checked; the one that overrides it has not."""

    class Child(MF):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            outputs = super().training_step(batch, batch_idx)
            return outputs | {what: outputs[what].clone().fill_(torch.nan)}

    data = catalog()
    fit = trainer(tmp_path, SampleRecorder(), max_epochs=1, limit_val_batches=0, enable_checkpointing=False)
    with pytest.raises(FloatingPointError, match=r"Epoch 0, step 0: .*training_step returned are not finite"):
        fit.fit(Child(data.num_users, data.num_items, embedding_dim=4), data)


@pytest.mark.parametrize("name", ["learning_rate", "l2"])
@pytest.mark.parametrize("bad", [*BAD, -1.0])
def test_settings_that_are_no_numbers_are_refused(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        MF(3, 4, **{name: bad})
