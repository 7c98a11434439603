from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from small_fits import catalog, playback, quiet

from llmhd_pl.backbones import MF, LightGCN
from llmhd_pl.callbacks import GraphPruning, SampleRecorder
from llmhd_pl.datamodules import SyntheticCatalog

pytestmark = pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")

# In which epochs the first samples are dropped, and, with a patience of 2, in which their edges are out.
DROPPED = {0: {0, 1, 2, 3, 4}, 1: {0, 1}, 2: {0, 2, 4}, 3: {1, 2, 4}, 4: {3, 4, 5}, 5: {0, 1, 3, 4}}
OUT = {0: {2, 3, 4, 5}, 1: {2}, 2: set(), 3: {3}, 4: {5}, 5: {2, 5}}
EPOCHS = 6


class Drop(Callback):
    """Drops what the table says; notes how many edges each kind of run has, and which of the first samples' are out."""

    def __init__(self, data: SyntheticCatalog, recorder: SampleRecorder | None = None) -> None:
        self.data, self.recorder = data, recorder
        self.train: dict[int, set[int]] = {}
        self.evaluation: list[set[int]] = []

    def missing(self, model: Any) -> set[int]:
        rows = torch.repeat_interleave(torch.arange(90), model.adjacency.crow.diff())
        there = {(user, item - 40) for user, item in zip(rows.tolist(), model.adjacency.col.tolist(), strict=True)}
        pairs = zip(self.data.train_users.tolist(), self.data.train_items.tolist(), strict=True)
        return {sample for sample, pair in enumerate(pairs) if pair not in there}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        assert self.train.setdefault(trainer.current_epoch, self.missing(pl_module)) == self.missing(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.recorder is not None
        weights = self.recorder.store.weights
        weights.fill_(1)
        for sample, epochs in DROPPED.items():
            if trainer.current_epoch in epochs:
                weights[sample] = 0 if weights.dim() == 1 else torch.tensor([0, 1])
            elif weights.dim() == 2:
                weights[sample, 1] = 0  # the sampled item's weight says nothing about the edge

    def note(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluation.append(self.missing(pl_module))

    on_validation_end = on_test_end = on_predict_end = note


def fit(folder: Path, data: SyntheticCatalog, objective: Any = "bpr", **arguments: Any) -> tuple[Trainer, Any, Drop]:
    torch.manual_seed(0)
    recorder = SampleRecorder()
    drop = Drop(data, recorder)
    keep = ModelCheckpoint(folder, monitor="val/ndcg@10", mode="max", save_top_k=-1, filename="{epoch}-{step}")
    trainer = quiet(
        *(folder, recorder, drop, GraphPruning(patience=2), keep),
        **({"max_epochs": EPOCHS, "limit_val_batches": 1.0, "num_sanity_val_steps": 1} | arguments),
        enable_checkpointing=True,
    )
    model = LightGCN(40, 50, embedding_dim=4, objective=objective, learning_rate=0.05)
    trainer.fit(model, data)
    return trainer, model, drop


def out_in(epoch: int) -> set[int]:
    return {sample for sample, epochs in OUT.items() if epoch in epochs}


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_edges_leave_after_patience_and_come_back(tmp_path: Path, objective: str) -> None:
    trainer, _, drop = fit(tmp_path, catalog(), objective)
    assert drop.train == {epoch: out_in(epoch) for epoch in range(EPOCHS)}
    assert drop.evaluation == [set(), *(out_in(epoch) for epoch in range(EPOCHS))]  # the sanity check comes first
    assert float(trainer.callback_metrics["denoise/edges_removed"]) == 1  # of sample 4, for the epoch to come


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_evaluation_uses_the_edges_of_the_checkpoint(tmp_path: Path, interval: float) -> None:
    data = catalog()
    trainer, model, drop = fit(tmp_path, data, val_check_interval=interval)
    paths = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("step=")[1]))
    assert len(paths) == EPOCHS / interval
    best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    score = float(trainer.checkpoint_callback.best_model_score)  # type: ignore[union-attr]
    (found,) = trainer.validate(model, data, ckpt_path=best, verbose=False)
    assert found["val/ndcg@10"] == pytest.approx(score, abs=1e-7)
    afresh = Drop(data)
    other = quiet(tmp_path, GraphPruning(patience=2), afresh, limit_val_batches=1.0)
    expected = [out_in(torch.load(path)["epoch"]) for path in paths]
    for path in paths:
        trainer.test(model, data, ckpt_path=path, verbose=False)
        other.test(LightGCN(40, 50, embedding_dim=4), data, ckpt_path=path, verbose=False)
    assert drop.evaluation[-len(paths) :] == afresh.evaluation == expected
    other.predict(LightGCN(40, 50, embedding_dim=4), data, ckpt_path=paths[-1])
    assert afresh.evaluation[-1] == out_in(EPOCHS - 1)


def test_without_a_checkpoint_evaluation_uses_the_edges_of_the_last_epoch(tmp_path: Path) -> None:
    data = catalog()
    trainer, model, drop = fit(tmp_path, data)
    trainer.test(model, data, verbose=False)
    trainer.validate(model, data, verbose=False)
    assert drop.evaluation[-2:] == [out_in(EPOCHS - 1)] * 2
    callbacks = trainer.callbacks[:3]  # type: ignore[attr-defined]
    drop.train.clear()
    quiet(tmp_path, *callbacks, max_epochs=1).fit(model, data)
    assert drop.train[0] == {4}  # a second fit of the model goes on
    drop.train.clear()
    other = LightGCN(40, 50, embedding_dim=4, learning_rate=0.05)
    quiet(tmp_path, *callbacks, max_epochs=1).fit(other, data)
    assert drop.train[0] == set()  # the fit of another begins with the whole graph


def test_a_resumed_run_has_the_same_edges(tmp_path: Path) -> None:
    data = catalog()
    fit(tmp_path, data)
    for path in sorted(tmp_path.glob("epoch=[234]*.ckpt")):
        recorder = SampleRecorder()
        drop = Drop(data, recorder)
        again = quiet(tmp_path / "again", recorder, drop, GraphPruning(patience=2), max_epochs=EPOCHS)
        again.fit(LightGCN(40, 50, embedding_dim=4, learning_rate=0.05), data, ckpt_path=path)
        first = torch.load(path)["epoch"] + 1
        assert drop.train == {epoch: out_in(epoch) for epoch in range(first, EPOCHS)}


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, catalog(), max_epochs=1)
    (path,) = tmp_path.glob("*.ckpt")
    checkpoint = torch.load(path)
    del checkpoint["data_fingerprint"]  # as of a module that does not compare its data itself
    torch.save(checkpoint, path)
    other = quiet(tmp_path, GraphPruning())
    with pytest.raises(ValueError, match=r"graph has .* edges; this data has .*same data and the same noise"):
        other.test(LightGCN(40, 50, embedding_dim=4), catalog(noise_ratio=0.1), ckpt_path=path, verbose=False)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = catalog()
    with pytest.raises(TypeError, match="MF has no set_graph"):
        quiet(tmp_path, SampleRecorder(), GraphPruning()).fit(MF(40, 50), data)
    with pytest.raises(RuntimeError, match="GraphPruning needs SampleRecorder"):
        quiet(tmp_path, GraphPruning()).fit(LightGCN(40, 50), data)
    model = LightGCN(40, 50)
    model.set_graph(data.train_users, data.train_items)
    loader: Any = torch.utils.data.DataLoader([{}], batch_size=None)
    with pytest.raises(
        RuntimeError, match=r"GraphPruning needs the training interactions, but .*\. Pass the data module"
    ):
        quiet(tmp_path, GraphPruning()).test(model, loader, verbose=False)
    assert playback(data, 1)  # a module without a graph
    with pytest.raises(TypeError, match="Playback has no set_graph"):
        quiet(tmp_path, SampleRecorder(), GraphPruning()).fit(playback(data, 1), data)


@pytest.mark.parametrize("patience", [0, -1, 256])
def test_bad_arguments(patience: int) -> None:
    with pytest.raises(ValueError, match=f"patience is {patience}; it counts epochs, from 1 to 255"):
        GraphPruning(patience)
