from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from small_fits import catalog, playback, quiet

from llmhd_pl.backbones import MF, LightGCN
from llmhd_pl.callbacks import Oracle, SampleRecorder, VariancePruning


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_noise_has_no_weight_from_the_first_step_on(tmp_path: Path, objective: str) -> None:
    data = catalog(noise_ratio=0.1)
    module = playback(data, 2, objective)
    quiet(tmp_path, Oracle(), max_epochs=2).fit(module, data)
    expected = (~data.noise_mask).float()
    assert 0 < float(expected.mean()) < 1
    if objective == "bce":  # the sampled item has done nothing wrong
        expected = torch.stack([expected, torch.ones_like(expected)], dim=1)
    assert torch.equal(module.weights, expected.expand_as(module.weights))


def test_noise_of_another_number_of_samples_is_refused(tmp_path: Path) -> None:
    data = catalog()
    longer = torch.cat([data.noise_mask, torch.ones(7, dtype=torch.bool)])
    with pytest.raises(ValueError, match=f"There are {len(longer)} noise for {len(longer) - 7} training interactions"):
        quiet(tmp_path, Oracle(noise=longer)).fit(playback(data, 1), data)


def test_it_multiplies_with_other_denoisers(tmp_path: Path) -> None:
    data = catalog()
    module, recorder = playback(data, 2), SampleRecorder()
    quiet(tmp_path, recorder, VariancePruning(0.3, 1), Oracle(), max_epochs=2).fit(module, data)
    noise_set = torch.zeros_like(data.noise_mask)
    noise_set[module.losses[0].argsort(descending=True)[: round(0.3 * len(noise_set))]] = True
    assert torch.equal(module.weights[1] == 0, noise_set | data.noise_mask)


def edges(model: LightGCN) -> set[tuple[int, int]]:
    assert model.adjacency is not None
    rows = torch.repeat_interleave(torch.arange(90), model.adjacency.crow.diff())
    pairs = zip(rows.tolist(), (model.adjacency.col - 40).tolist(), strict=True)
    return {(user, item) for user, item in pairs if user < 40}


class Edges(Callback):
    def __init__(self) -> None:
        self.seen: dict[str, set[tuple[int, int]]] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["train"] = edges(pl_module)  # type: ignore[arg-type]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["validate"] = edges(pl_module)  # type: ignore[arg-type]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["test"] = edges(pl_module)  # type: ignore[arg-type]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["predict"] = edges(pl_module)  # type: ignore[arg-type]


@pytest.mark.parametrize("graph", [False, True])
def test_the_graph_is_without_noise_if_asked(tmp_path: Path, graph: bool) -> None:
    data, seen = catalog(), Edges()
    model = LightGCN(40, 50, embedding_dim=4)
    trainer = quiet(tmp_path, Oracle(graph), seen, limit_val_batches=1.0)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data)
    pairs = torch.stack([data.train_users, data.train_items], dim=1)
    expected = {(user, item) for user, item in (pairs[~data.noise_mask] if graph else pairs).tolist()}
    assert seen.seen == dict.fromkeys(("train", "validate", "test", "predict"), expected)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = catalog()
    loader: Any = torch.utils.data.DataLoader([{}], batch_size=None)
    with pytest.raises(RuntimeError, match="Oracle needs the truth: a data module with noise_mask"):
        quiet(tmp_path, Oracle()).fit(MF(40, 50), loader)
    with pytest.raises(TypeError, match="MF has no set_graph"):
        quiet(tmp_path, Oracle(graph=True)).fit(MF(40, 50), data)

    class Plain(LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def configure_optimizers(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Plain does not show them\. Let it inherit"):
        quiet(tmp_path, Oracle()).fit(Plain(), data)
