"""How many prompts the method would ask in a real training, beside what ``estimate`` says beforehand.

    python benchmarks/llm_calls.py --data_dir data/amazon-books

Trains LightGCN with 5 % random noise and follows the paper's selection (docs/paper.md, sections 1, 2 and 4) without
acting on it: the noise set by loss, candidates by the variance of either prediction, confident items and revised
preferences. What was asked about before, with the same preference, would come from the cache and is not counted.
"""

import argparse
import warnings

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.backbones import LightGCN
from llmhd_pl.datamodules import AmazonBooks
from llmhd_pl.llm.estimate import estimate
from llmhd_pl.llm.prompts import T_FN, T_FP, T_SCORE, Prompts

warnings.simplefilter("ignore")

EPS_V, EPS_GAMMA, LIFETIME, BATCH_SIZE = 0.5, 3, 5, 1024
SETTINGS = [(alpha, eps_l_max) for alpha in (3000, 10_000) for eps_l_max in (0.05, 0.1)]


class Selection:
    """The samples that are asked about with one setting of alpha and eps_l_max."""

    def __init__(self, alpha: int, eps_l_max: float, users: Tensor) -> None:
        self.alpha, self.eps_l_max, self.users = alpha, eps_l_max, users
        samples = len(users)
        self.asked = torch.zeros(2, samples, dtype=torch.bool)  # observed, drawn
        self.flags = torch.zeros(2, samples, dtype=torch.int64)  # epochs flagged: false positive, false negative
        self.calls = {T_SCORE: 0, T_FP: 0, T_FN: 0}

    def step(self, steps: int, losses: Tensor, variances: Tensor, redrawn: bool) -> None:
        """Select after an epoch.

        Args:
            steps: The steps so far.
            losses: The loss of each sample, [n].
            variances: The variance of the prediction for its observed and its drawn item, [2, n].
            redrawn: Whether this epoch has new negatives.
        """
        if redrawn:
            self.asked[1], self.flags[1] = False, 0
        noise = losses.topk(int(len(losses) * min(self.eps_l_max * steps / self.alpha, self.eps_l_max))).indices
        highest = [noise[variance[noise].topk(int(EPS_V * len(noise))).indices] for variance in variances]
        candidates = torch.cat(highest).unique()
        self.calls[T_SCORE] += int((~self.asked[:, candidates]).sum())
        self.asked[:, candidates] = True
        flagged = (
            variances[0].topk(len(noise), largest=False).indices,
            variances[1].topk(len(noise)).indices,
        )
        for row, template in enumerate((T_FP, T_FN)):
            self.flags[row, flagged[row]] += 1
            confident = flagged[row][self.flags[row, flagged[row]] == EPS_GAMMA]
            revised = self.users[confident].unique()
            self.calls[template] += len(revised)
            self.asked[:, torch.isin(self.users, revised)] = False


class Follow(Callback):
    """Keeps the losses and predictions of the last epochs and passes them to the selections."""

    def __init__(self, users: Tensor) -> None:
        self.selections = [Selection(alpha, eps_l_max, users) for alpha, eps_l_max in SETTINGS]
        self.losses = torch.zeros(len(users))
        self.scores = torch.zeros(LIFETIME, 2, len(users))  # of the last epochs; observed, drawn

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],  # type: ignore[override]
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Write the rows of the batch."""
        self.losses[batch["sample"]] = outputs["losses"]
        scores = torch.stack([outputs["positive_score"], outputs["negative_score"]])
        self.scores[trainer.current_epoch % LIFETIME, :, batch["sample"]] = scores

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select. The variance of a drawn item is taken over the epochs since it was drawn."""
        epoch = trainer.current_epoch
        positive = self.scores[: epoch + 1, 0].var(0, correction=0)
        negative = self.scores[: epoch % LIFETIME + 1, 1].var(0, correction=0)
        for selection in self.selections:
            redrawn = epoch % LIFETIME == 0
            selection.step(trainer.global_step, self.losses, torch.stack([positive, negative]), redrawn)


def main() -> None:
    """Train, and print the counts and the estimates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/amazon-books", help="the folder of the data set")
    parser.add_argument("--epochs", type=int, default=35)
    arguments = parser.parse_args()
    seed_everything(0, verbose=False)
    data = AmazonBooks(arguments.data_dir, BATCH_SIZE, noise_ratio=0.05, negative_lifetime=LIFETIME)
    data.setup("fit")
    follow = Follow(data.train_users)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=arguments.epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[follow],
    )
    trainer.fit(LightGCN(data.num_users, data.num_items, learning_rate=0.005, l2=0.001), data)

    histories = [[0] * int(count) for count in torch.bincount(data.train_users)]
    table = Table("alpha", "eps_l_max", "template", "counted", "estimated", "ratio", title="benchmarks/llm_calls.py")
    for selection in follow.selections:
        usage = estimate(
            Prompts.load("books"),
            ["-"],
            histories,
            epochs=arguments.epochs,
            batch_size=BATCH_SIZE,
            eps_l_max=selection.eps_l_max,
            alpha=selection.alpha,
            eps_v=EPS_V,
            eps_gamma=EPS_GAMMA,
            negative_lifetime=LIFETIME,
        )
        for template, counted in selection.calls.items():
            guess = usage.templates[template].calls
            setting = f"{selection.alpha}", f"{selection.eps_l_max}"
            table.add_row(*setting, template, f"{counted:,}", f"{guess:,}", f"{guess / max(counted, 1):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
