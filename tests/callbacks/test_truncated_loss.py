from pathlib import Path
from typing import Any

import pytest
import single_steps
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from small_fits import catalog, playback, quiet
from torch import Tensor

from llmhd_pl.backbones import MF, LightGCN
from llmhd_pl.callbacks import DoubleCorrection, Oracle, ReweightedLoss, SampleRecorder, TruncatedLoss
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.datamodules.train_batches import TrainBatches


def batches(data: SyntheticCatalog, epochs: int) -> list[tuple[int, Tensor]]:
    """The epoch and the samples of each batch of a fit."""
    return [(epoch, batch["sample"]) for epoch in range(epochs) for batch in TrainBatches(data, lambda e=epoch: e)]


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_the_rate_grows_from_step_to_step(tmp_path: Path, objective: str) -> None:
    data = catalog()
    module = playback(data, 3, objective)
    trainer = quiet(tmp_path, TruncatedLoss(0.2, 10), max_epochs=3)
    trainer.fit(module, data)
    seen = []
    for step, (epoch, sample) in enumerate(batches(data, 3)):
        losses, weights = module.losses[epoch, sample], module.weights[epoch, sample]
        keys = losses[:, 0] if objective == "bce" else losses
        rate = 0.2 * min(step / 10, 1)
        number = losses.numel() - int((1 - rate) * losses.numel())
        expected = torch.ones_like(losses)
        (expected[:, 0] if objective == "bce" else expected)[keys.argsort(descending=True)[:number]] = 0
        assert torch.equal(weights, expected)
        seen.append(number)
    assert seen[0] == 0 and seen[1] < seen[5] < seen[10]  # within the first epoch, too
    assert trainer.callback_metrics["denoise/drop_rate"] == pytest.approx(0.2)


@pytest.mark.parametrize("callback", [TruncatedLoss(0.2, ramp_epochs=4), DoubleCorrection(0.2, ramp_epochs=4)])
def test_the_rate_can_grow_over_epochs(tmp_path: Path, callback: TruncatedLoss) -> None:
    data = catalog()
    trainer = quiet(tmp_path, callback, max_epochs=3)
    trainer.fit(playback(data, 3), data)
    assert trainer.callback_metrics["denoise/drop_rate"] == pytest.approx(0.15)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_the_loss_is_the_mean_over_the_kept(objective: str) -> None:
    trainer, callback = single_steps.trainer(step=5), TruncatedLoss(0.5, 10)
    model = single_steps.model(objective, trainer)
    callback.setup(trainer, model, "fit")
    positive, negative = single_steps.predictions(model)
    if objective == "bpr":  # int(.75 * 8) = 6 stay
        kept = F.softplus(negative - positive).sort().values[:6]
    else:  # int(.75 * 16) = 12 stay, 4 of them observed
        kept = torch.cat([F.softplus(-positive).sort().values[:4], F.softplus(negative)])
    loss, gradient = single_steps.step(model)
    assert loss == pytest.approx(float(kept.mean().detach()), rel=1e-5)
    torch.testing.assert_close(gradient, single_steps.gradient(model, kept.mean()))


def test_it_lets_go_after_the_fit(tmp_path: Path) -> None:
    data = catalog()
    module = playback(data, 2)
    for _ in range(2):
        quiet(tmp_path, TruncatedLoss(0.3, 1), ReweightedLoss(), DoubleCorrection(), max_epochs=2).fit(module, data)
    assert module._denoisers == ()


class Plain(LightningModule):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> None:
        pass


@pytest.mark.parametrize("callback", [TruncatedLoss, ReweightedLoss, DoubleCorrection])
def test_a_module_without_the_mixin_is_told_of_it(tmp_path: Path, callback: Any) -> None:
    with pytest.raises(TypeError, match=rf"{callback.__name__} needs the losses .* Plain .* llmhd_pl.SampleWeights"):
        quiet(tmp_path, callback()).fit(Plain(), catalog())


@pytest.mark.parametrize(
    ("callback", "arguments"),
    [
        (TruncatedLoss, {"max_drop_rate": 1.5}),
        (TruncatedLoss, {"ramp_iterations": 0}),
        (ReweightedLoss, {"beta": -0.2}),
        (DoubleCorrection, {"max_drop_rate": -0.1}),
        (DoubleCorrection, {"relabel_ratio": 2.0}),
    ],
)
def test_bad_arguments_are_named(callback: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        callback(**arguments)


@pytest.mark.parametrize("callback", [TruncatedLoss(0.3, 5), ReweightedLoss(), DoubleCorrection(0.3, 5, 0.5)])
@pytest.mark.parametrize("backbone", [MF, LightGCN])
@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_backbones_learn_under_it_in_bf16(tmp_path: Path, callback: Any, backbone: Any, objective: str) -> None:
    torch.manual_seed(0)
    data = catalog(noise_ratio=0.1)
    model = backbone(40, 50, embedding_dim=8, objective=objective, learning_rate=0.05)
    recorder = SampleRecorder()
    trainer = quiet(tmp_path, recorder, Oracle(), callback, max_epochs=3, precision="bf16-mixed")
    trainer.fit(model, data)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    before = backbone(40, 50, embedding_dim=8, objective=objective)
    (untrained,), (trained,) = (
        quiet(tmp_path, limit_val_batches=1.0).validate(m, data, verbose=False) for m in (before, model)
    )
    assert trained["val/ndcg@10"] > untrained["val/ndcg@10"]
