"""The fits of ``benchmarks/gpu.py``, all on one small catalogue: 60 readers, 50 books, 10 batches an epoch."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from llmhd_pl import DCF, LLMHD, MF, RCE, TCE, LightGCN, NoiseOracle
from llmhd_pl.backbones import GMF, NCL, NGCF, RGCF, SGL, NeuMF
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.llm.lexical import LexicalScorer

EPOCHS = 4
LOSS, NDCG = 1e-3, 0.01
"""How far the training loss, relative, and NDCG@10 may be from the CPU's. The same seed in float64 differs by 1e-5."""
ROUNDED_LOSS, ROUNDED_NDCG = 0.03, 0.03
"""The same in 16 bits. On a CPU, NGCF in bfloat16 differs by half of it."""
LIMITS = (
    f"The loss may be {LOSS:.1%} from the CPU's and NDCG@10 {NDCG}; in 16 bits {ROUNDED_LOSS:.0%} and {ROUNDED_NDCG}."
)
WEIGHTS = 1e-3
"""How far the embeddings of two processes may be from those of one."""
CHECKED = 16
"""The batches whose users and items are compared with the interactions at once, by waiting for the device."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")
BACKBONES: dict[str, Callable[..., Any]] = {
    "MF": MF,
    "GMF": GMF,
    "NeuMF": NeuMF,
    "LightGCN": LightGCN,
    "NGCF": partial(NGCF, hidden_dims=(8, 8)),
    "SGL": SGL,
    "NCL": partial(NCL, num_clusters=5, warm_up_epochs=1),
    "RGCF": RGCF,
}
UNDRAWN: dict[str, dict[str, float]] = {"NeuMF": {"dropout": 0.0}, "NGCF": {"message_dropout": 0.0}}
"""What is drawn on the device, and so differs from the CPU's, left out."""
DENOISERS: dict[str, Callable[[], Any]] = {
    "none": list,
    "T-CE": partial(TCE, 0.2, 1),
    "R-CE": partial(RCE, 0.25),
    "DCF": partial(DCF, 0.2, 1),
    "oracle": NoiseOracle,
    "LLMHD": lambda: LLMHD(LexicalScorer(), ramp_epochs=1, confidence_epochs=2, audit=True),
    "LLMHD, the paper's rule": lambda: LLMHD(LexicalScorer(), rule="paper", scored="candidates", ramp_epochs=1),
}


class NoWaits(Callback):
    """Lets PyTorch raise an error where a training step waits for the GPU, after the first batches."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Look from here on."""
        if trainer.global_step >= CHECKED:
            torch.cuda.set_sync_debug_mode("error")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation may wait."""
        torch.cuda.set_sync_debug_mode("default")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch's end may wait."""
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """What is done after an error may wait."""
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def temporary_trainer(device: torch.device, *callbacks: Callback, **options: Any) -> Iterator[Trainer]:
    """Make a quiet trainer whose side files are removed afterwards, as is ``deterministic``, which is set globally."""
    given: dict[str, Any] = {"max_epochs": EPOCHS, "devices": 1} | options
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Trainer(
                accelerator=device.type,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                default_root_dir=folder,
                callbacks=list(callbacks),
                **given,
            )
        finally:
            torch.use_deterministic_algorithms(False)


def new_model(name: str, **arguments: Any) -> Any:
    """Return a backbone with weights that are the same on every machine."""
    torch.manual_seed(0)
    return BACKBONES[name](60, 50, embedding_dim=8, learning_rate=0.02, **arguments)


def catalog() -> SyntheticCatalog:
    """Return the data of all fits."""
    return SyntheticCatalog(60, 50, num_topics=5, books_per_reader=12, batch_size=60, noise_ratio=0.2)


@cache
def figures(device: torch.device, name: str, denoiser: str = "none", **options: Any) -> tuple[float, float]:
    """Return the training loss of the last epoch and the validation's NDCG@10 of a fit."""
    with temporary_trainer(device, *DENOISERS[denoiser](), **options) as trainer:
        trainer.fit(new_model(name, **UNDRAWN.get(name, {})), catalog())
    return float(trainer.callback_metrics["train/loss"]), float(trainer.callback_metrics["val/ndcg@10"])


def as_on_the_cpu(device: torch.device, name: str, denoiser: str = "none") -> str:
    """Fit a backbone with a denoiser on the device and on the CPU.

    Raises:
        AssertionError: If the figures are too far apart.
    """
    return near(figures(device, name, denoiser), figures(torch.device("cpu"), name, denoiser), LOSS, NDCG)


def in_precision(device: torch.device, precision: str) -> str:
    """Fit NGCF, which multiplies matrices, in a precision on the device, and in float32 on the CPU.

    Raises:
        AssertionError: If the figures are too far apart.
    """
    limits = (ROUNDED_LOSS, ROUNDED_NDCG) if "16" in precision else (LOSS, NDCG)
    here = figures(device, "NGCF", precision=precision)
    return near(here, figures(torch.device("cpu"), "NGCF"), *limits)


def near(here: tuple[float, float], there: tuple[float, float], loss: float, ndcg: float) -> str:
    """Return two fits' figures in words.

    Args:
        here: The loss and NDCG@10 on the device.
        there: The same on the CPU.
        loss: The largest relative difference of the losses.
        ndcg: The largest difference of NDCG@10.

    Raises:
        AssertionError: If they are further apart.
    """
    words = f"loss {here[0]:.5f} (CPU {there[0]:.5f}), NDCG@10 {here[1]:.4f} (CPU {there[1]:.4f})"
    if not (abs(here[0] / there[0] - 1) <= loss and abs(here[1] - there[1]) <= ndcg):
        raise AssertionError(f"too far apart: {words}")
    return words


def resumed(device: torch.device) -> str:
    """Fit LightGCN with LLMHD, deterministically, in one go and in two with a checkpoint between them.

    Raises:
        AssertionError: If the weights differ at all.
    """
    whole = new_model("LightGCN")
    with temporary_trainer(device, *DENOISERS["LLMHD"](), deterministic=True) as trainer:
        trainer.fit(whole, catalog())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "half.ckpt")
        with temporary_trainer(device, *DENOISERS["LLMHD"](), deterministic=True, max_epochs=EPOCHS // 2) as trainer:
            trainer.fit(new_model("LightGCN"), catalog())
            trainer.save_checkpoint(path)
        again = new_model("LightGCN")
        with temporary_trainer(device, *DENOISERS["LLMHD"](), deterministic=True) as trainer:
            trainer.fit(again, catalog(), ckpt_path=path)
    apart = float((whole.embedding.weight - again.embedding.weight).detach().abs().max())
    if apart > 0:
        raise AssertionError(f"the embeddings differ by up to {apart:.1e}")
    return "the same to the last digit"


def never_waits(device: torch.device, name: str, denoiser: str) -> str:
    """Fit on a GPU, where a wait in a step is an error."""
    with temporary_trainer(device, NoWaits(), *DENOISERS[denoiser]()) as trainer:
        trainer.fit(new_model(name), catalog())
    return f"no wait in {trainer.global_step - CHECKED} steps"


def on_two(device: torch.device, denoiser: str) -> str:
    """Fit LightGCN with two processes, each with a device of its own, and with one on the CPU.

    Raises:
        AssertionError: If NDCG@10 or the embeddings are too far apart. (Each process has the loss of its own samples.)
    """
    found = []
    for where, options in ((torch.device("cpu"), {}), (device, {"devices": 2, "strategy": "ddp_spawn"})):
        model = new_model("LightGCN")
        with temporary_trainer(where, *DENOISERS[denoiser](), **options) as trainer:
            trainer.fit(model, catalog())
        found.append((model.embedding.weight.detach().cpu(), float(trainer.callback_metrics["val/ndcg@10"])))
    (one, ndcg), (two, ndcg_of_two) = found
    apart = float((one - two).abs().max())
    words = f"NDCG@10 {ndcg_of_two:.4f} (CPU {ndcg:.4f}), embeddings within {apart:.1e}"
    if not (apart <= WEIGHTS and abs(ndcg - ndcg_of_two) <= NDCG):
        raise AssertionError(f"too far apart: {words}")
    return words
