"""What every backbone can do: all objectives, bf16, denoisers, resumes, several processes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from small_models import catalog, fit, quiet
from torch import Tensor

from llmhd_pl import LLMHD
from llmhd_pl.backbones import GMF, MF, NCL, NGCF, RGCF, SGL, Backbone, GraphBackbone, LightGCN, NeuMF
from llmhd_pl.callbacks import (
    DoubleCorrection,
    GraphPruning,
    LLMSampleScorer,
    Oracle,
    PreferenceUpdater,
    ReweightedLoss,
    SampleRecorder,
    TruncatedLoss,
    VariancePruning,
)
from llmhd_pl.llm.lexical import LexicalScorer

BACKBONES: dict[str, Any] = {
    "MF": lambda **arguments: MF(60, 50, embedding_dim=16, **arguments),
    "LightGCN": lambda **arguments: LightGCN(60, 50, embedding_dim=16, **arguments),
    "GMF": lambda **arguments: GMF(60, 50, embedding_dim=16, **arguments),
    "NeuMF": lambda **arguments: NeuMF(60, 50, embedding_dim=16, **arguments),
    "NGCF": lambda **arguments: NGCF(60, 50, embedding_dim=16, hidden_dims=(16, 16), **arguments),
    "SGL": lambda **arguments: SGL(60, 50, embedding_dim=16, **arguments),
    "NCL": lambda **arguments: NCL(60, 50, embedding_dim=16, num_clusters=5, warm_up_epochs=1, **arguments),
    "RGCF": lambda **arguments: RGCF(60, 50, embedding_dim=16, **arguments),
}
each = pytest.mark.parametrize("name", BACKBONES)


def make(name: str, seed: int = 0, **arguments: Any) -> Backbone:
    torch.manual_seed(seed)
    model: Backbone = BACKBONES[name](**({"learning_rate": 0.02} | arguments))
    return model


@each
@pytest.mark.parametrize(
    ("objective", "precision"), [("bpr", "bf16-mixed"), ("bce", "32-true"), ("softmax", "bf16-mixed")]
)
def test_it_learns(name: str, objective: Any, precision: Any) -> None:
    model, data = make(name, objective=objective), catalog()
    epochs = 15 if isinstance(model, GMF | NeuMF) else 8
    fit(model, max_epochs=epochs, precision=precision, limit_val_batches=0)
    data.setup()
    model.eval()
    with torch.no_grad():
        observed = model.score(data.train_users, data.train_items)
        others = model.score(data.train_users, torch.arange(len(data.train_items)) % 50)
    assert float((observed > others).float().mean()) > 0.7  # .5 untrained
    assert model.rank(torch.arange(60)).dtype == torch.float32


@each
@pytest.mark.parametrize("objective", ["bpr", "bce", "softmax"])
def test_the_method_denoises(tmp_path: Path, name: str, objective: Any) -> None:
    model = make(name, objective=objective)
    graph = [GraphPruning(patience=1)] if hasattr(model, "set_graph") else []
    pruning = VariancePruning(max_drop_rate=0.2, ramp_iterations=1)
    scorer = LLMSampleScorer(LexicalScorer(), rule="joint", scored="all")
    updater = PreferenceUpdater(confidence_epochs=2)
    callbacks = [SampleRecorder(), pruning, scorer, updater, *graph]
    trainer = fit(model, *callbacks, max_epochs=4, default_root_dir=tmp_path)
    assert float(trainer.callback_metrics["denoise/drop_rate"]) == pytest.approx(0.2)
    assert float(trainer.callback_metrics["preferences/revised"]) > 0
    assert ("denoise/edges_removed" in trainer.callback_metrics) == bool(graph)
    assert torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()


@each
@pytest.mark.parametrize("objective", ["bpr", "bce", "softmax"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_baselines_denoise(name: str, objective: Any, precision: Any) -> None:
    """What reaches the loss of the last batch is what each baseline's formula says."""
    baselines = TruncatedLoss(0.2, 1), ReweightedLoss(0.25), DoubleCorrection(0.2, 1, 0.5), Oracle()
    for baseline in baselines:
        model = make(name, objective=objective)
        said: list[tuple[Tensor, Tensor]] = []

        def listen(
            batch: Any, losses: Tensor, model: Backbone = model, said: list[tuple[Tensor, Tensor]] = said
        ) -> tuple[Tensor, Tensor]:
            answer = type(model).weights_and_counts(model, batch, losses)
            said.append((losses.detach(), answer[0]))
            return answer

        model.weights_and_counts = listen  # type: ignore[method-assign]
        fit(model, baseline, max_epochs=2, limit_val_batches=0, precision=precision)
        losses, weights = said[-1]
        if isinstance(baseline, ReweightedLoss):
            torch.testing.assert_close(weights, (-0.25 * losses).exp())
        elif isinstance(baseline, Oracle):
            assert (weights[:, 0] if objective == "bce" else weights).eq(0).any()
        else:
            dropped = losses.numel() - int(0.8 * losses.numel())
            relabelled = int(0.5 * dropped) if isinstance(baseline, DoubleCorrection) else 0
            assert int((weights < 0).sum()) == relabelled
            assert int((weights == 0).sum()) == dropped - relabelled
        assert torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()


@each
def test_a_resumed_run_repeats_exactly(tmp_path: Path, name: str) -> None:
    """There are five batches an epoch: step 7 lies within the second, where NCL's clusters cannot be found again."""
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = make(name)
    fit(whole, keep, enable_checkpointing=True, max_epochs=3, limit_val_batches=0)
    for step in (5, 7):
        resumed = make(name, seed=1)
        torch.manual_seed(step)  # the state of the process must not matter
        trainer = fit(resumed, ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=3, limit_val_batches=0)
        assert trainer.global_step == 15
        for (key, ours), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), key


@each
def test_two_processes_take_the_same_steps_as_one(tmp_path: Path, name: str) -> None:
    """NeuMF runs without dropout, because each process draws that for its own pairs."""
    weights = []
    more: dict[str, Any] = {"dropout": 0.0} if name == "NeuMF" else {}
    for devices in (1, 2):
        model, path = make(name, learning_rate=0.005, **more), tmp_path / f"{devices}.ckpt"
        trainer = quiet(devices=devices, strategy="ddp_fork" if devices > 1 else "auto", limit_val_batches=0)
        trainer.fit(model, catalog())
        trainer.save_checkpoint(path)
        weights.append(torch.load(path)["state_dict"])
    for (key, one), two in zip(weights[0].items(), weights[1].values(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-4, rtol=1e-3, msg=lambda message: f"{key}: {message}")  # noqa: B023


@each
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("graph_first", [False, True])
def test_whole_models_in_another_precision(name: str, precision: Any, graph_first: bool, tmp_path: Path) -> None:
    """A graph that was set by hand is converted with the model; one that the trainer sets is not."""
    model, data = make(name, objective="softmax"), catalog()
    if graph_first:
        if not isinstance(model, GraphBackbone):
            return
        data.setup("fit")
        model.set_graph(data.train_users, data.train_items)
    before = None if not isinstance(model, GraphBackbone) or model.adjacency is None else model.graph.val.clone()
    callbacks = LLMHD(LexicalScorer(), ramp_epochs=1)
    trainer = quiet(callbacks=list(callbacks), max_epochs=2, precision=precision, default_root_dir=tmp_path)
    trainer.fit(model, data)
    wanted = torch.float64 if precision == "64-true" else torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    if before is not None and precision == "bf16-true":
        model.to(torch.bfloat16)
        assert torch.equal(model.graph.val, before)
    assert model.rank(torch.arange(3)).dtype == (torch.float64 if wanted == torch.float64 else torch.float32)


def test_float16_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float16 \(16-true\). Use bf16-true"):
        fit(make("LightGCN"), precision="16-true")


@pytest.mark.parametrize(
    ("precision", "clip", "fused"), [("16-mixed", 1.0, False), ("16-mixed", None, True), ("32-true", 1.0, True)]
)
def test_what_scales_the_gradient_back_by_itself_is_not_used_where_it_is_clipped(
    precision: str, clip: float | None, fused: bool
) -> None:
    model = make("MF")
    model._trainer = SimpleNamespace(precision=precision, gradient_clip_val=clip)  # type: ignore[assignment]
    assert model.configure_optimizers().defaults["fused"] is fused


def test_a_deterministic_run_validates(tmp_path: Path) -> None:
    try:
        trainer = fit(make("LightGCN"), deterministic=True, max_epochs=1, default_root_dir=tmp_path)
    finally:
        torch.use_deterministic_algorithms(False)
    assert "val/ndcg@10" in trainer.callback_metrics
