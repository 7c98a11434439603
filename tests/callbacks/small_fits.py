"""Fits that take a fraction of a second: a module that plays back given losses, scorers that are sure, and trainers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks import LLMSampleScorer, PreferenceUpdater, SampleRecorder, VariancePruning
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.llm.scorer import Preference, Scorer
from llmhd_pl.sample_weights import SampleWeights

Answer = Callable[[int, int, Preference], float]
NAN = float("nan")


def catalog(**arguments: Any) -> SyntheticCatalog:
    """40 readers, 50 books, about 300 samples in about 6 batches; ready."""
    given = {"num_topics": 5, "books_per_reader": 12, "batch_size": 60} | arguments
    data = SyntheticCatalog(40, 50, **given)
    data.setup()
    return data


def quiet(folder: Path, *callbacks: Callback, **arguments: Any) -> Trainer:
    """A trainer that says nothing and writes to the folder."""
    given = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0, "max_epochs": 1}
    given = {**given, "log_every_n_steps": 1} | arguments
    return Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **given,
    )


class Playback(SampleWeights, LightningModule):
    """Losses and predictions are read from tables, [epochs, n] (losses: or [epochs, n, 2]); weights are kept."""

    def __init__(self, losses: Tensor, positive: Tensor, negative: Tensor, objective: str = "bpr") -> None:
        super().__init__()
        self.save_hyperparameters("objective")
        self.losses, self.positive, self.negative = losses, positive, negative
        self.weights = torch.full_like(losses, NAN)
        self.parameter = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        at = self.current_epoch, batch["sample"]
        losses = self.losses[at] * (1 + self.parameter)
        weights = self.sample_weights(batch, losses)
        self.weights[at] = weights
        total = (weights * losses).sum().detach()
        self.log("train/loss", total, on_step=False, on_epoch=True, batch_size=len(losses), reduce_fx="sum")
        return {
            "loss": (weights * losses).sum(),
            "losses": losses.detach(),
            "positive_score": self.positive[at],
            "negative_score": self.negative[at],
        }

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def playback(data: SyntheticCatalog, epochs: int, objective: str = "bpr", seed: int = 0) -> Playback:
    """Random tables: losses in no order, predictions whose variance differs from sample to sample."""
    generator = torch.Generator().manual_seed(seed)
    n = len(data.train_users)
    shape = (epochs, n, 2) if objective == "bce" else (epochs, n)
    losses = torch.rand(shape, generator=generator)
    spread = torch.rand(2, 1, n, generator=generator)
    positive, negative = torch.randn(2, epochs, n, generator=generator) * spread
    return Playback(losses, positive, negative, objective)


class FakeScorer(Scorer):
    """Answers by a function of (user, item, preference), and remembers what it was asked.

    A preference is a text with the user's number and a version, which a revision raises.
    """

    def __init__(self, answer: Answer = lambda user, item, preference: 5.0) -> None:
        self.answer = answer
        self.prepared: list[tuple[Sequence[Mapping[str, str]], Tensor]] = []
        self.histories: dict[int, list[int]] = {}
        self.asked: list[list[tuple[int, int]]] = []  # one list per call
        self.revisions: list[tuple[dict[int, list[int]], dict[int, list[int]]]] = []
        self.events: list[tuple[str, Any]] = []  # "score" and the pairs, or "revise" and the users, in order

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [pair for call in self.asked for pair in call]

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        self.prepared.append((items, pairs))

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        assert not self.histories.keys() & histories.keys(), "a preference is summarised once"
        self.histories |= {user: list(items) for user, items in histories.items()}
        return {user: f"reader {user}, version 0" for user in histories}

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        asked = [(user, item) for user, item in pairs.tolist()]
        self.asked.append(asked)
        self.events.append(("score", asked))
        return torch.tensor([self.answer(user, item, preferences[user]) for user, item in asked])

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        self.revisions.append(
            tuple({user: list(items) for user, items in group.items()} for group in (disliked, liked))  # type: ignore[arg-type]
        )
        self.events.append(("revise", disliked.keys() | liked.keys()))
        revised: dict[int, Preference] = {}
        for user in disliked.keys() | liked.keys():
            name, version = str(preferences[user]).split(", version ")
            revised[user] = f"{name}, version {int(version) + 1}"
        return revised


def truth(data: SyntheticCatalog) -> FakeScorer:
    """10 for a main taste, 7 for the minor one, 1 for a misclick."""

    def answer(user: int, item: int, preference: Preference) -> float:
        first, second, minor = data.tastes[user].tolist()
        topic = int(data.topics[item])
        return 10.0 if topic in (first, second) else 7.0 if topic == minor else 1.0

    return FakeScorer(answer)


def hashed(user: int, item: int, preference: Preference) -> float:
    """A score that every pair has for itself, that a revision changes; a tenth has none."""
    number = (user * 7919 + item * 104729 + len(str(preference)) * 31 + int(str(preference)[-1]) * 1299709) % 1000
    return NAN if number < 100 else 1 + number % 91 / 10


class Method:
    """All callbacks of the method, with settings that do something in every epoch of a small fit."""

    def __init__(
        self, scorer: FakeScorer | None = None, pruning: dict[str, Any] | None = None, window: int = 3, **arguments: Any
    ) -> None:
        self.scorer = scorer or FakeScorer(hashed)
        self.recorder = SampleRecorder(window)
        given = {"max_drop_rate": 0.3, "ramp_iterations": 10, "candidate_fraction": 0.6}
        self.pruning = VariancePruning(**(given | (pruning or {})))  # type: ignore[arg-type]
        self.llm = LLMSampleScorer(self.scorer, **arguments)
        self.updater = PreferenceUpdater(confidence_epochs=2)
        self.callbacks: list[Callback] = [self.recorder, self.pruning, self.llm, self.updater]

    @property
    def without_updates(self) -> list[Callback]:
        return self.callbacks[:3]


class Keep(Callback):
    """Keeps status and weights as they are when its turn comes, one entry per epoch."""

    def __init__(self, recorder: SampleRecorder) -> None:
        self.recorder = recorder
        self.status: list[Tensor] = []
        self.weights: list[Tensor] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.status.append(self.recorder.store.status.clone())
        self.weights.append(self.recorder.store.weights.clone())


def equal(one: Any, two: Any) -> bool:
    """Whether two states hold the same, NaN being NaN."""
    if isinstance(one, Tensor):
        same_kind = isinstance(two, Tensor) and one.dtype == two.dtype and one.shape == two.shape
        return same_kind and torch.equal(one.double().nan_to_num(-9e9), two.double().nan_to_num(-9e9))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    return bool(one == two)
