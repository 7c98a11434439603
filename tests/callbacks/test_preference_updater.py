import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from small_fits import Keep, Method, Playback, catalog, hashed, playback, quiet
from torch import Tensor

from llmhd_pl.callbacks import LLMSampleScorer, PreferenceUpdater, SampleRecorder, VariancePruning
from llmhd_pl.datamodules import SyntheticCatalog

pytestmark = pytest.mark.filterwarnings("ignore:.*contradicts itself")
EPOCHS, WINDOW = 7, 3


class Logged(Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def note(self, trainer: Trainer) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch:
            self.note(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer)


def flagged(variance: np.ndarray, fraction: float, lowest: bool) -> list[int]:
    """The samples in the lowest or highest fraction of those with a variance."""
    order = np.argsort(variance if lowest else -variance, kind="stable")  # NaN comes last
    return [int(sample) for sample in order[: round(fraction * int((~np.isnan(variance)).sum()))]]


def expected_revisions(
    data: SyntheticCatalog, module: Playback, confidence: int, weights: list[Tensor] | None = None
) -> list[tuple[int, dict[int, list[int]], dict[int, list[int]]]]:
    """Section 4 in plain Python: per epoch with something new, the disliked and the liked items of each user."""
    n = len(data.train_users)
    users = data.train_users.tolist()
    disliked_flags, liked_flags = [0] * n, [0] * n
    item_since = np.zeros(n, dtype=int)
    result = []
    for epoch in range(EPOCHS):
        rate = 0.3 * min(6 * (epoch + 1) / 10, 1)
        negatives = data.negative_sampler.draw(epoch)
        if epoch:
            changed = (negatives != data.negative_sampler.draw(epoch - 1)).numpy()
            item_since[changed] = epoch
            liked_flags = [0 if new else flags for flags, new in zip(liked_flags, changed, strict=True)]
        first = np.full(n, max(0, epoch - WINDOW + 1))
        positive = spread(module.positive, first, epoch)
        negative = spread(module.negative, np.maximum(first, item_since), epoch)
        if weights is not None:
            positive[weights[epoch].view(n, -1)[:, 0].numpy() > 0] = np.nan
        told: list[dict[int, list[int]]] = [{}, {}]
        for side, (flags, found, items) in enumerate(
            (
                (disliked_flags, flagged(positive, rate, lowest=True), data.train_items),
                (liked_flags, flagged(negative, rate, lowest=False), negatives),
            )
        ):
            for sample in sorted(found):
                flags[sample] += 1
                if flags[sample] == confidence:
                    told[side].setdefault(users[sample], []).append(int(items[sample]))
        if told[0] or told[1]:
            result.append((epoch, told[0], told[1]))
    return result


def spread(scores: Tensor, first: np.ndarray, epoch: int) -> np.ndarray:
    rows = [
        scores[start : epoch + 1, sample].double().var(correction=0).item() if start < epoch else np.nan
        for sample, start in enumerate(first)
    ]
    return np.array(rows)


@pytest.mark.parametrize(("objective", "lifetime", "confidence"), [("bpr", 7, 2), ("bce", 3, 2), ("bpr", 7, 1)])
def test_the_scorer_is_told_what_became_confident_once(
    tmp_path: Path, objective: str, lifetime: int, confidence: int
) -> None:
    data = catalog(negative_lifetime=lifetime)
    module, method, logged = playback(data, EPOCHS, objective), Method(), Logged()
    method.updater.confidence_epochs = confidence
    quiet(tmp_path, *method.callbacks, logged, max_epochs=EPOCHS).fit(module, data)
    expected = expected_revisions(data, module, confidence)
    assert method.scorer.revisions == [(disliked, liked) for _, disliked, liked in expected]
    assert expected[0][0] == confidence and any(disliked for _, disliked, _ in expected)  # epoch 0 has no variance
    assert any(liked for _, _, liked in expected)
    told = {epoch: (disliked, liked) for epoch, disliked, liked in expected}
    for epoch, row in enumerate(logged.rows):
        disliked, liked = told.get(epoch, ({}, {}))
        assert row["preferences/false_positives"] == sum(map(len, disliked.values()))
        assert row["preferences/false_negatives"] == sum(map(len, liked.values()))
        assert row["preferences/revised"] == len(disliked.keys() | liked.keys())


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_false_positives_among_the_dropped(tmp_path: Path, objective: str) -> None:
    data = catalog(negative_lifetime=7)
    module, method = playback(data, EPOCHS, objective), Method(scored="all")
    method.updater = PreferenceUpdater(2, among="dropped")
    keep = Keep(method.recorder)
    quiet(tmp_path, *method.without_updates, keep, method.updater, max_epochs=EPOCHS).fit(module, data)
    expected = expected_revisions(data, module, 2, keep.weights)
    assert method.scorer.revisions == [(disliked, liked) for _, disliked, liked in expected]
    assert any(disliked for _, disliked, _ in expected)
    assert expected != expected_revisions(data, module, 2)


def test_what_the_file_says_of_a_revision(tmp_path: Path) -> None:
    data = catalog()
    module, method = playback(data, EPOCHS), Method()
    quiet(tmp_path, *method.callbacks, max_epochs=EPOCHS).fit(module, data)
    changes = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    titles = [book["title"] for book in data.interactions.items]
    versions: dict[int, int] = {}
    found = iter([change for change in changes if change["cause"] == "revision"])
    for epoch, disliked, liked in expected_revisions(data, module, 2):
        for user in sorted(disliked.keys() | liked.keys()):
            version = versions.get(user, 0)
            versions[user] = version + 1
            groups = {"disliked": disliked.get(user), "liked": liked.get(user)}
            assert next(found) == {
                **{"epoch": epoch, "user": user, "cause": "revision"},
                **{name: [titles[item] for item in items] for name, items in groups.items() if items},
                **{"before": f"reader {user}, version {version}", "after": f"reader {user}, version {version + 1}"},
            }
    assert next(found, None) is None
    current = {user: f"reader {user}, version {versions.get(user, 0)}" for user in method.scorer.histories}
    assert method.llm.judgements.preferences.current == current
    # A user nobody had asked about is summarised before the revision, from everything they have.
    summarised = [change["user"] for change in changes if change["cause"] == "summary"]
    assert sorted(summarised) == sorted(method.scorer.histories) and versions.keys() <= set(summarised)


def test_a_scorer_that_revises_nothing_changes_nothing(tmp_path: Path) -> None:
    data = catalog()
    method = Method(scored="all")
    method.scorer.revise = lambda preferences, disliked, liked: {}  # type: ignore[method-assign]
    trainer = quiet(tmp_path, *method.callbacks, max_epochs=EPOCHS)
    trainer.fit(playback(data, EPOCHS), data)
    everything = set(zip(data.train_users.tolist(), data.train_items.tolist(), strict=True))
    answered = [pair for pair in method.scorer.pairs if not math.isnan(hashed(*pair, f"reader {pair[0]}, version 0"))]
    assert len(answered) == len(set(answered)) and set(method.scorer.pairs) == everything
    assert float(trainer.callback_metrics["preferences/revised"]) == 0
    assert all(change["cause"] == "summary" for change in method.llm.judgements.preferences.changes)


def test_a_revision_without_an_answer_is_asked_for_again(tmp_path: Path) -> None:
    """When the item is flagged next: nothing else may take the item of a judge that was out of reach for granted."""
    data = catalog(negative_lifetime=7)
    module, method = playback(data, EPOCHS), Method()
    module.positive = torch.linspace(0, 1, len(data.train_users)) * torch.arange(EPOCHS)[:, None]  # the same vary least
    told: list[tuple[dict[int, list[int]], bool]] = []
    answer = method.scorer.revise

    def revise(preferences: Any, disliked: dict[int, list[int]], liked: dict[int, list[int]]) -> Any:
        told.append((disliked, down := len(told) < 2))
        return {} if down else answer(preferences, disliked, liked)

    method.scorer.revise = revise  # type: ignore[method-assign]
    quiet(tmp_path, *method.callbacks, max_epochs=EPOCHS).fit(module, data)
    first, second, third, *later = (disliked for disliked, _ in told)
    for user, items in first.items():
        assert set(items) <= set(second[user]) <= set(third[user])  # told again while there was no answer
        for disliked in later:
            assert not set(items) & set(disliked.get(user, []))  # and once it was answered no more
    assert first and later


class Falling(Playback):
    """Its validation metric is what the list says."""

    values: list[float]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/ndcg@10", self.values[self.current_epoch])


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ([0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4], "fell from 0.5000 to 0.4000"),  # the first revision is after epoch 2
        ([0.5, 0.5, 0.5, 0.48, 0.48, 0.48, 0.48], None),
        ([0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3], None),  # before anything was revised
    ],
)
def test_a_fall_after_a_revision_is_reported(tmp_path: Path, values: list[float], warned: str | None) -> None:
    data = catalog()
    tables = playback(data, EPOCHS)
    module, method = Falling(tables.losses, tables.positive, tables.negative), Method()
    module.values = values
    arguments: dict[str, Any] = {"max_epochs": EPOCHS, "limit_val_batches": 1.0, "num_sanity_val_steps": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet(tmp_path, *method.callbacks, **arguments).fit(module, data)
    told = [str(warning.message) for warning in caught if "PreferenceUpdater" in str(warning.message)]
    assert len(told) == (warned is not None) and (warned is None or f"val/ndcg@10 {warned}" in told[0])


def test_a_fall_right_after_a_resume_is_reported(tmp_path: Path) -> None:
    data = catalog()
    tables = playback(data, EPOCHS)
    path = tmp_path / "last.ckpt"
    for epochs, checkpoint in ((3, None), (4, path)):
        module, method = Falling(tables.losses, tables.positive, tables.negative), Method()
        module.values = [0.5, 0.5, 0.5, 0.4]
        trainer = quiet(
            *(tmp_path, *method.callbacks), max_epochs=epochs, limit_val_batches=1.0, num_sanity_val_steps=0
        )
        if checkpoint is None:
            trainer.fit(module, data)
            assert method.scorer.revisions
            trainer.save_checkpoint(path)
        else:
            with pytest.warns(UserWarning, match=r"PreferenceUpdater: val/ndcg@10 fell from 0\.5000 to 0\.4000"):
                trainer.fit(module, data, ckpt_path=checkpoint)


def test_what_stands_before_it(tmp_path: Path) -> None:
    data, method = catalog(), Method()
    for callbacks, message in (
        ([PreferenceUpdater()], "PreferenceUpdater needs SampleRecorder"),
        ([SampleRecorder(), PreferenceUpdater()], "PreferenceUpdater needs VariancePruning"),
        ([SampleRecorder(), VariancePruning(), PreferenceUpdater()], "PreferenceUpdater needs LLMSampleScorer"),
        (
            [SampleRecorder(), VariancePruning(), PreferenceUpdater(), LLMSampleScorer(method.scorer)],
            "LLMSampleScorer must come before PreferenceUpdater",
        ),
    ):
        with pytest.raises(RuntimeError, match=message):
            quiet(tmp_path, *callbacks).fit(playback(data, 1), data)


@pytest.mark.parametrize("epochs", [0, -1, 255])
def test_bad_arguments(epochs: int) -> None:
    with pytest.raises(ValueError, match=f"confidence_epochs is {epochs}; it must be 1 to 254"):
        PreferenceUpdater(epochs)


def test_among_what() -> None:
    with pytest.raises(ValueError, match="among is 'kept'; it must be 'all' or 'dropped'"):
        PreferenceUpdater(among="kept")  # type: ignore[arg-type]
