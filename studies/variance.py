"""Study 1: do hard samples vary more across epochs than noise?

    python studies/variance.py --data_root data

Variance-based pruning (docs/paper.md, section 2) rests on this observation (SRNS, Ding et al., NeurIPS 2020). The study
measures it in plain training, without any denoising.

*Noise* is known from the data: misclicks (synthetic catalog), 20 % random pairs (Yelp), ratings below 4 (ml-100k).
*Hard* samples are those that were planted as such (synthetic catalog), or the correct ones among the fifth of the
samples with the highest losses (the other data sets). The AUC is the probability that the prediction of a hard sample
varied more over the last m epochs than that of a noisy one; at .5 the variance says nothing. It is taken once over all
samples of the two kinds, and once within the fifth with the highest losses: the noise set, where the method uses it.

The study writes ``docs/studies/variance.csv`` and ``docs/studies/variance.png``. Data sets that are not in the folder
are left out.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.backbones import MF, LightGCN
from llmhd_pl.callbacks import SampleRecorder
from llmhd_pl.datamodules import AtomicFiles, InteractionDataModule, SyntheticCatalog, Yelp
from llmhd_pl.denoising.selection import largest
from llmhd_pl.metrics import auc

OUTPUT = Path(__file__).parents[1] / "docs" / "studies"
WINDOWS = (3, 5, 10)
SHOWN_WINDOW = 5
EPOCHS = (10, 20, 40)  # the variances are compared after so many epochs
NOISE_SET = 0.2
BACKBONES: dict[str, Any] = {
    "LightGCN": lambda users, items: LightGCN(users, items, learning_rate=0.005, l2=0.001),
    "MF": lambda users, items: MF(users, items, learning_rate=0.005, l2=0.01),
}
COLORS = {"easy": "tab:blue", "hard": "tab:orange", "noise": "tab:red"}


class Look(Callback):
    """Compares the variances of hard and noisy samples after some of the epochs.

    Args:
        recorder: The recorder of the predictions, which must come before this callback.
        data: The data that is trained on, after ``setup``.
    """

    def __init__(self, recorder: SampleRecorder, data: InteractionDataModule) -> None:
        self.recorder, self.noise = recorder, data.noise_mask
        self.planted = None if data.train_kinds is None or not (data.train_kinds == 1).any() else data.train_kinds == 1
        self.rows: list[dict[str, Any]] = []
        self.shown: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, if this is one of ``EPOCHS``."""
        epoch, store = trainer.current_epoch + 1, self.recorder.store
        if epoch not in EPOCHS:
            return
        suspicious = largest(store.losses, NOISE_SET)
        hard = ~self.noise & suspicious if self.planted is None else self.planted
        for window in WINDOWS:
            rows = [(store.epoch - age) % store.window for age in range(min(window, epoch))]
            variance = store.positive[rows].double().var(dim=0, correction=0)
            everywhere = auc(variance[hard], variance[self.noise])
            within = auc(variance[hard & suspicious], variance[self.noise & suspicious])
            self.rows.append({"epochs": epoch, "m": window, "AUC, all": everywhere, "AUC, noise set": within})
            if window == SHOWN_WINDOW:
                self.shown = {
                    "easy": variance[~hard & ~self.noise], "hard": variance[hard], "noise": variance[self.noise]
                }  # fmt: skip


def study(data: InteractionDataModule, backbone: str, seed: int) -> Look:
    """Train a backbone on the data and return the callback that compared the variances."""
    data.setup()
    torch.manual_seed(seed)
    recorder = SampleRecorder(max(WINDOWS))
    look = Look(recorder, data)
    trainer = Trainer(
        accelerator="cpu", max_epochs=max(EPOCHS), callbacks=[recorder, look], logger=False, limit_val_batches=0,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(BACKBONES[backbone](data.num_users, data.num_items), data)
    return look


def datasets(root: Path, seed: int) -> dict[str, InteractionDataModule]:
    """Return the data sets by name: the synthetic one, and those that are in the folder."""
    sets: dict[str, InteractionDataModule] = {
        "synthetic": SyntheticCatalog(
            books_per_reader=20, hard_share=0.3, misclick_share=0.4, negative_lifetime=1, seed=seed
        )
    }
    if (root / "yelp").is_dir():
        sets["yelp"] = Yelp(str(root / "yelp"), noise_ratio=0.2, negative_lifetime=1, seed=seed)
    if (root / "ml-100k").is_dir():
        sets["ml-100k"] = AtomicFiles(
            str(root / "ml-100k"), noise_below=4, held_out_from=5, negative_lifetime=1, seed=seed
        )
    return sets


def plot(looks: dict[tuple[str, str], Look]) -> None:
    """Plot the distributions after the last epoch, in a panel per data set and backbone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for name, _ in looks))
    figure, panels = pyplot.subplots(
        len(BACKBONES), len(names), figsize=(4.6 * len(names), 3.2 * len(BACKBONES)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for (name, backbone), look in looks.items():
        axes = panels[list(BACKBONES).index(backbone)][names.index(name)]
        everything = torch.cat(list(look.shown.values())).clamp(min=1e-12).log10()
        ends = torch.tensor([0.002, 0.998], dtype=torch.float64)
        low, high = torch.quantile(everything[:: max(1, len(everything) // 100_000)], ends)
        bins = torch.logspace(float(low), float(high), 50).numpy()
        for kind, values in look.shown.items():
            share = torch.full((len(values),), 1 / max(len(values), 1))
            label = f"{kind} ({len(values):,})"
            axes.hist(values.numpy(), bins, weights=share.numpy(), histtype="step", color=COLORS[kind], label=label)
        axes.set(xscale="log", title=f"{name}, {backbone}", xlabel=f"variance over {SHOWN_WINDOW} epochs")
        axes.legend(fontsize=8)
    figure.suptitle(f"Predictions of observed items after {max(EPOCHS)} epochs: share of the samples of each kind")
    figure.savefig(OUTPUT / "variance.png", dpi=110)


def main() -> None:
    """Run the study, print its table, and save its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="folder with yelp/ and ml-100k/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    looks: dict[tuple[str, str], Look] = {}
    for seed in arguments.seeds:
        for name in datasets(arguments.data_root, seed):
            for backbone in BACKBONES:
                look = study(datasets(arguments.data_root, seed)[name], backbone, seed)
                rows += [{"data": name, "backbone": backbone, "seed": seed} | row for row in look.rows]
                looks.setdefault((name, backbone), look)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(OUTPUT / "variance.csv", index=False, float_format="%.4f")
    keys, values = ["data", "backbone", "epochs", "m"], ["AUC, all", "AUC, noise set"]
    groups = table.groupby(keys, sort=False)[values].agg(["mean", "std"]).reset_index()
    shown = Table(*keys, *values, title="A hard sample varies more than a noisy one")
    for row in groups.itertuples(index=False):
        cells = [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in (row[4:6], row[6:8])]
        shown.add_row(*(str(key) for key in row[:4]), *cells)
    Console().print(shown)
    plot(looks)


if __name__ == "__main__":
    main()
