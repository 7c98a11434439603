"""What the examples of clients share: clicks whose noise is known, three arms to compare, measures, and a table.

Nothing here is needed to denoise a model of your own.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl import LLMHD, LexicalScorer, LossDropping, SampleRecorder, Scorer, SyntheticCatalog
from llmhd_pl.metrics import NDCG, Recall

Arm = Callable[..., list[Callback]]
"""Takes what LLMHD is told about a client (``users``, ``items``, ``weight_key``, ...) and returns callbacks."""


@dataclass
class Clicks:
    """Who clicked what and when. Row s of ``users``, ``items``, ``times`` and ``noise`` is sample s.

    Attributes:
        num_users: The number of users; they are numbered from 0.
        num_items: The number of items; they are numbered from 0.
        users: The user of each training click, int64 [n].
        items: The item of each training click, int64 [n].
        times: When it was, float64 [n].
        noise: Whether it is a mistake, bool [n]. No model and no callback sees it.
        test: The (user, item) pairs that are held out, int64 [m, 2].
        texts: The text fields of each item.
    """

    num_users: int
    num_items: int
    users: Tensor
    items: Tensor
    times: Tensor
    noise: Tensor
    test: Tensor
    texts: Sequence[Mapping[str, str]]

    @property
    def noise_rate(self) -> float:
        """The share of the clicks that are mistakes."""
        return float(self.noise.double().mean())

    def sequences(self) -> list[Tensor]:
        """Return the samples of each user in the order of their times."""
        order = self.times.argsort(stable=True)
        order = order[self.users[order].argsort(stable=True)]
        return list(order.split(self.users.bincount(minlength=self.num_users).tolist()))


@dataclass
class Outcome:
    """What training one model with one arm gave.

    Attributes:
        measures: The client's measures on test data by their names.
        callbacks: The callbacks of the trainer.
        noise: Whether each training sample is a mistake, bool [n].
    """

    measures: dict[str, float]
    callbacks: Sequence[Any]
    noise: Tensor

    @property
    def dropped(self) -> Tensor | None:
        """Which training samples were dropped in the end, bool [n]; None for the arm without denoising."""
        recorders = [callback for callback in self.callbacks if isinstance(callback, SampleRecorder)]
        return recorders[0].store.weights.cpu() == 0 if recorders else None

    @property
    def precision(self) -> float:
        """The share of the dropped samples that are mistakes; NaN if none was dropped."""
        return float(self.noise[self.dropped].double().mean())


Train = Callable[..., Outcome]
"""``train(clicks, arm, epochs, seed)`` trains a client's model with the callbacks of an arm."""


def book_shop(readers: int = 600, seed: int = 0) -> Clicks:
    """Return the clicks of a book shop in which a sixth is misclicks. A reader's clicks are in a random order."""
    shop = SyntheticCatalog(num_readers=readers, num_books=400, num_topics=8, seed=seed)
    shop.setup()
    times = torch.rand(len(shop.train_users), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Clicks(
        shop.num_users, shop.num_items, shop.train_users, shop.train_items, times, shop.noise_mask,
        shop.interactions.test, shop.interactions.items,
    )  # fmt: skip


def arms(clicks: Clicks, ramp_epochs: int, scorer: Callable[[], Scorer] = LexicalScorer) -> dict[str, Arm]:
    """Return the three arms by name: no denoising, by the losses only, and with the judge.

    Args:
        clicks: The clicks; the share of their noise is dropped.
        ramp_epochs: The number of epochs until then.
        scorer: Makes the judge.
    """
    rate: dict[str, Any] = {"drop_rate": clicks.noise_rate, "ramp_epochs": ramp_epochs}

    def judge(**told: Any) -> list[Callback]:
        texts = told.pop("texts", clicks.texts)
        return [*LLMHD(scorer(), texts=texts, **(rate | told))]

    return {"plain": lambda **told: [], "loss": lambda **told: [*LossDropping(**(rate | told))], "judge": judge}


def ranking(top: Tensor, clicks: Clicks) -> dict[str, float]:
    """Return Recall@10 and NDCG@10.

    Args:
        top: The best ten items of each user that are not among the clicks, int64 [num_users, 10]; -1 for none.
        clicks: The clicks.
    """
    relevant = torch.zeros(clicks.num_users, clicks.num_items + 1, dtype=torch.bool)  # the last column is "none"
    relevant[clicks.test[:, 0], clicks.test[:, 1]] = True
    measures: dict[str, float] = {}
    for name, metric in (("Recall@10", Recall(10)), ("NDCG@10", NDCG(10))):
        metric.update(relevant.gather(1, top.where(top >= 0, clicks.num_items)), relevant.sum(dim=1))
        measures[name] = float(metric.compute())
    return measures


def top_ten(scores: Tensor, clicks: Clicks) -> Tensor:
    """Return the best ten items of each user that are not among the clicks, int64 [num_users, 10].

    Args:
        scores: The predictions, [num_users, num_items]. Those of the clicks are overwritten with -inf.
        clicks: The clicks.
    """
    scores[clicks.users, clicks.items] = -torch.inf
    return scores.topk(10).indices


def quiet() -> dict[str, Any]:
    """Return a trainer's arguments for a run of which only the result matters, with a folder for its files."""
    return {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False,
        "enable_progress_bar": False, "default_root_dir": _FOLDER.name,
    }  # fmt: skip


_FOLDER = TemporaryDirectory()


def main(name: str, clients: Mapping[str, Train], epochs: int, readers: int = 400) -> None:
    """Train every client with every arm on the book shop and print a table.

    Args:
        name: The name of the example.
        clients: What trains each client.
        epochs: The number of epochs by default.
        readers: The number of readers by default.
    """
    parser = argparse.ArgumentParser(description=f"{name}: denoising {', '.join(clients)}")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--readers", type=int, default=readers)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for package in ("pytorch_lightning", "lightning"):
        logging.getLogger(package).setLevel(logging.ERROR)
    clicks = book_shop(arguments.readers)
    table: Table | None = None
    for client, train in clients.items():
        for arm, denoise in arms(clicks, ramp_epochs=max(1, arguments.epochs // 3)).items():
            outcome = train(clicks, denoise, arguments.epochs, seed=0)
            if table is None:
                table = Table("client", "arm", *outcome.measures, "dropped", "of them noise", title=name)
            row = [client, arm, *(f"{value:.4f}" for value in outcome.measures.values())]
            if outcome.dropped is not None:
                row += [str(int(outcome.dropped.sum())), f"{outcome.precision:.0%}"]
            table.add_row(*row)
    print(f"{int(clicks.noise.sum())} of {len(clicks.noise)} clicks are noise ({clicks.noise_rate:.0%}).")
    Console().print(table)
