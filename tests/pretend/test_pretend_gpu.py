"""Every backbone and denoiser on a device that is not the CPU: nothing mixes devices, and steps do not wait for it.

``pytest tests/pretend``, in a run of its own (conftest.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_gpu import DEVICE, Waits, pretend_gpu, strategy
from pytorch_lightning import Callback, Trainer

from llmhd_pl import DCF, LLMHD, MF, RCE, TCE, LightGCN, NoiseOracle
from llmhd_pl.backbones import GMF, NCL, NGCF, RGCF, SGL, NeuMF
from llmhd_pl.callbacks import EveryEpochTest
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.llm.lexical import LexicalScorer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(contradicts itself|fell from|drop rate takes|exists and is not empty)"),
]
WARM_UP = 16
"""The batches whose samples are compared with the interactions at once, by waiting for the device."""
BACKBONES: dict[str, Callable[..., Any]] = {
    "MF": MF,
    "LightGCN": LightGCN,
    "GMF": GMF,
    "NeuMF": NeuMF,
    "NGCF": lambda *sizes, **arguments: NGCF(*sizes, hidden_dims=(8, 8), **arguments),
    "SGL": SGL,
    "NCL": lambda *sizes, **arguments: NCL(*sizes, num_clusters=5, warm_up_epochs=1, **arguments),
    "RGCF": RGCF,
}
DENOISERS: dict[str, Callable[..., Any]] = {
    "none": lambda graph: [],
    "T-CE": lambda graph: TCE(0.2, 1),
    "R-CE": lambda graph: RCE(0.25),
    "DCF": lambda graph: DCF(0.2, 1),
    "oracle": lambda graph: NoiseOracle(graph=graph),
    "LLMHD": lambda graph: LLMHD(
        LexicalScorer(), ramp_epochs=1, confidence_epochs=2, audit=True, graph_patience=1 if graph else None
    ),
    "LLMHD paper": lambda graph: LLMHD(LexicalScorer(), rule="paper", scored="candidates", ramp_epochs=1),
}


class InSteps(Callback):
    """Notes waits within training steps, after the first ones."""

    def __init__(self, after: int = WARM_UP) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin after the warm-up."""
        assert pl_module.device.type == "pretend"
        Waits.on = trainer.global_step >= self.after

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A validation may wait."""
        Waits.on = False

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch's end may wait."""
        Waits.on = False


def catalog(**arguments: Any) -> SyntheticCatalog:
    """60 readers, 50 books, ten batches an epoch."""
    given: dict[str, Any] = {"batch_size": 60, "num_negatives": 2, "noise_ratio": 0.2} | arguments
    return SyntheticCatalog(60, 50, num_topics=5, books_per_reader=12, **given)


def trainer(folder: Path, epochs: int, *callbacks: Callback, **where: Any) -> Trainer:
    """A quiet trainer on the pretend device, or elsewhere."""
    return Trainer(
        **(where or {"strategy": strategy()}),
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,  # which does not know tensors of other classes
        default_root_dir=folder,
        callbacks=list(callbacks),
    )


def fit(folder: Path, model: Any, *callbacks: Callback, checkpoint: Any = None, epochs: int = 3) -> Trainer:
    fitting = trainer(folder, epochs, InSteps(), *callbacks)
    fitting.fit(model, catalog(), ckpt_path=checkpoint)
    return fitting


def made(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return BACKBONES[name](60, 50, embedding_dim=8, **arguments)


@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("name", BACKBONES)
def test_no_operation_mixes_devices(tmp_path: Path, name: str, denoiser: str) -> None:
    with pretend_gpu():
        model = made(name)
        fitting = fit(tmp_path, model, *DENOISERS[denoiser](hasattr(model, "set_graph")))
        assert float(fitting.callback_metrics["val/ndcg@10"]) > 0
        fitting.test(model, catalog(), verbose=False)
        fitting.predict(model, catalog())


@pytest.mark.parametrize("objective", ["bpr", "bce", "softmax"])
@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("name", ["MF", "LightGCN"])
def test_a_step_never_waits_for_the_device(tmp_path: Path, name: str, denoiser: str, objective: str) -> None:
    with pretend_gpu() as waits:
        model = made(name, objective=objective)
        fit(tmp_path, model, *DENOISERS[denoiser](hasattr(model, "set_graph")))
        assert dict(waits.found) == {}


@pytest.mark.parametrize("num_contrasted", [None, 20])
@pytest.mark.parametrize("name", ["GMF", "NeuMF", "NGCF", "SGL", "NCL", "RGCF"])
def test_nor_do_the_other_backbones(tmp_path: Path, name: str, num_contrasted: int | None) -> None:
    if num_contrasted is not None and name not in ("SGL", "NCL", "RGCF"):
        pytest.skip("contrasts nothing")
    with pretend_gpu() as waits:
        model = made(name, **({} if num_contrasted is None else {"num_contrasted": num_contrasted}))
        fit(tmp_path, model, *DENOISERS["LLMHD"](hasattr(model, "set_graph")))
        assert dict(waits.found) == {}


@pytest.mark.parametrize("negatives", ["hardest", "in-batch"])
def test_nor_with_other_negatives(tmp_path: Path, negatives: Any) -> None:
    with pretend_gpu() as waits:
        objective = "softmax" if negatives == "in-batch" else "bpr"
        fit(tmp_path, made("LightGCN", objective=objective, negatives=negatives))
        assert dict(waits.found) == {}


def test_a_wait_is_found(tmp_path: Path) -> None:
    class Waiting(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            float(outputs["losses"].sum())

    with pretend_gpu() as waits:
        fit(tmp_path, made("MF"), Waiting())
        assert any("_local_scalar_dense" in what for what in waits.found)


class InValidations(Callback):
    """Notes waits within the validations after the first epoch."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        Waits.on = trainer.current_epoch > 0

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        Waits.on = False


@pytest.mark.parametrize("name", ["MF", "LightGCN"])
def test_what_users_have_seen_is_copied_to_the_device_once(tmp_path: Path, name: str) -> None:
    with pretend_gpu() as waits:
        trainer(tmp_path, 3, InValidations(), EveryEpochTest()).fit(made(name), catalog())
        assert waits.found  # a ranking is checked, for which the CPU waits
        assert [what for what in (waits.found + waits.copied) if "a copy from the CPU" in what] == []


def test_mixed_devices_are_found() -> None:
    with pretend_gpu(), pytest.raises(RuntimeError, match="add mixes devices"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


def test_a_sample_that_there_is_not_is_named_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    """If the device has not stopped at it, as CUDA does where the number is used as an index."""

    class Wrong(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == WARM_UP + 1:
                batch["sample"] = batch["sample"] - 10_000

    class Recorded(MF):
        never_padded = True

    with pretend_gpu(), pytest.raises(IndexError):
        torch.manual_seed(0)
        fit(tmp_path, Recorded(60, 50, embedding_dim=8), Wrong(), *DENOISERS["LLMHD"](False))


@pytest.mark.parametrize("denoiser", ["DCF", "LLMHD"])
def test_what_is_saved_on_one_device_goes_on_another(tmp_path: Path, denoiser: str) -> None:
    path = tmp_path / "last.ckpt"
    with pretend_gpu():
        fit(tmp_path, made("LightGCN"), *DENOISERS[denoiser](True), epochs=2).save_checkpoint(path)
        resumed = made("LightGCN")
        fit(tmp_path, resumed, *DENOISERS[denoiser](True), checkpoint=path)
        there = resumed.embedding.weight.detach().cpu()
    whole = made("LightGCN")
    trainer(tmp_path, 3, *DENOISERS[denoiser](True), accelerator="cpu").fit(whole, catalog())
    torch.testing.assert_close(there, whole.embedding.weight.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["NeuMF", "SGL", "NCL", "RGCF"])
def test_larger_blocks_change_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device has other blocks than a CPU's cache; here they are smaller than what is divided.

    NeuMF runs without dropout, whose draws on another device are others.
    """
    more: dict[str, Any] = {"dropout": 0.0} if name == "NeuMF" else {}
    monkeypatch.setattr("llmhd_pl.losses._PRODUCTS", 350)
    monkeypatch.setattr("llmhd_pl.backbones.rgcf._BLOCK", 100)
    monkeypatch.setattr("llmhd_pl.backbones.neumf._LARGE_BLOCK", (7, 11))
    ranked = []
    for device in ("pretend", "cpu"):
        with pretend_gpu():
            model = made(name, **more)
            fitting = trainer(tmp_path, 2, **({"accelerator": "cpu"} if device == "cpu" else {}))
            fitting.fit(model, catalog())
            ranks = fitting.predict(model, catalog())
            assert ranks is not None
            ranked.append(torch.cat([batch["score"].cpu() for batch in ranks]))  # type: ignore[call-overload]
    ours, theirs = (torch.as_tensor(scores.tolist()) for scores in ranked)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
