import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from small_fits import NAN, FakeScorer, Keep, Method, catalog, hashed, playback, quiet, truth
from torch import Tensor

from llmhd_pl.callbacks import LLMSampleScorer, SampleRecorder, VariancePruning
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.denoising.rules import joint
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, HARD, NOISE
from llmhd_pl.llm.accounting import Budget, Usage
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.llm.scorer import Preference

pytestmark = pytest.mark.filterwarnings("ignore:.*contradicts itself")
EPOCHS = 4


def run(
    folder: Path, data: SyntheticCatalog, objective: str = "bpr", updates: bool = False, **arguments: Any
) -> tuple[Any, Method, Keep, Keep]:
    """A fit, and what was decided before and after LLMSampleScorer."""
    method = Method(**arguments)
    before, after = Keep(method.recorder), Keep(method.recorder)
    module = playback(data, EPOCHS, objective)
    callbacks = [method.recorder, method.pruning, before, method.llm, after]
    quiet(folder, *callbacks, *([method.updater] if updates else []), max_epochs=EPOCHS).fit(module, data)
    return module, method, before, after


def scores_of(data: SyntheticCatalog, items: Tensor) -> Tensor:
    pairs = zip(data.train_users.tolist(), items.tolist(), strict=True)
    return torch.tensor([hashed(user, item, f"reader {user}, version 0") for user, item in pairs])


def ramped(epoch: int, start: float, end: float) -> float:
    return start + (end - start) * min(6 * (epoch + 1) / 10, 1)  # six batches an epoch, ten iterations


@pytest.mark.parametrize("rule", ["paper", "consistent"])
@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_hard_candidates_are_kept_and_the_rest_of_the_noise_set_is_dropped(
    tmp_path: Path, rule: str, objective: str
) -> None:
    data = catalog(negative_lifetime=1)
    module, _, before, after = run(tmp_path, data, objective, rule=rule, window=2)
    positive = scores_of(data, data.train_items)
    found = 0
    for epoch in range(EPOCHS):
        negative = scores_of(data, data.negative_sampler.draw(epoch))
        if rule == "paper" and objective == "bpr":
            hard = positive - negative < ramped(epoch, 7, 3)
        elif rule == "paper":
            hard = torch.stack([positive < ramped(epoch, 8, 6), negative > ramped(epoch, 2, 4)], dim=1)
        else:
            hard = positive >= 5.5 if objective == "bpr" else torch.stack([positive >= 5.5, negative < 5.5], dim=1)
        candidates = before.status[epoch] == CANDIDATE
        expected = before.status[epoch].clone()
        expected[candidates] = torch.where(hard, HARD, NOISE).to(torch.uint8)[candidates]
        assert torch.equal(after.status[epoch], expected)
        assert torch.equal(after.weights[epoch] == 0, expected == NOISE)
        assert torch.equal(after.weights[epoch] == 1, expected != NOISE)
        if epoch + 1 < EPOCHS:
            weights = after.weights[epoch].float()
            if objective == "bce":  # a new sampled item counts fully
                weights[data.negative_sampler.draw(epoch) != data.negative_sampler.draw(epoch + 1), 1] = 1.0
            assert torch.equal(module.weights[epoch + 1], weights)
        found += int((expected == HARD).sum())
    assert found > 5


@pytest.mark.parametrize("scored", ["candidates", "all"])
@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_joint_decides_which_fraction_is_dropped(tmp_path: Path, scored: str, objective: str) -> None:
    data = catalog()
    module, _, before, after = run(tmp_path, data, objective, scored=scored, score_weight=2.0)
    for epoch in range(EPOCHS):
        candidates = before.status[epoch] == CANDIDATE
        first, second = candidates.unbind(1) if objective == "bce" else (candidates, torch.zeros_like(candidates))
        positive = scores_of(data, data.train_items)
        if scored == "candidates":
            positive = positive.where(first, NAN)
        negative = scores_of(data, data.negative_sampler.draw(epoch)).where(second, NAN)
        agreement = positive if objective == "bpr" else torch.stack([positive, -negative], dim=1)
        losses, rate = module.losses[epoch].clone(), ramped(epoch, 0, 0.3)
        if objective == "bce" and epoch == 0:  # sampled items are new, and the rate is of all
            losses[:, 1], rate = NAN, 2 * rate
        dropped = joint(losses, agreement, rate, weight=2.0)
        assert dropped.any() and torch.equal(after.weights[epoch] == 0, dropped)
        suspicious = before.status[epoch] != CLEAN
        assert torch.equal(after.status[epoch] == NOISE, dropped)
        assert torch.equal(after.status[epoch] == HARD, suspicious & ~dropped)


def test_a_judge_that_knows_finds_the_misclicks(tmp_path: Path) -> None:
    data = catalog()
    share = float(data.noise_mask.float().mean())
    method = Method(truth(data), {"max_drop_rate": share, "ramp_iterations": 1}, scored="all")
    module = playback(data, 2)
    module.losses[:] = 1.0  # nothing to see in the losses
    quiet(tmp_path, *method.without_updates, max_epochs=2).fit(module, data)
    assert torch.equal(module.weights[1] == 0, data.noise_mask)


@pytest.mark.parametrize(
    ("rule", "objective", "observed", "sampled"),
    [
        ("paper", "bpr", True, True),
        ("consistent", "bpr", True, False),  # the sampled item decides nothing: nobody pays for it
        ("joint", "bpr", True, False),
        ("paper", "bce", True, True),
        ("consistent", "bce", True, True),
        ("joint", "bce", True, True),
    ],
)
def test_only_candidates_are_asked_about(
    tmp_path: Path, rule: str, objective: str, observed: bool, sampled: bool
) -> None:
    data = catalog(negative_lifetime=1)
    _, method, before, _ = run(tmp_path, data, objective, rule=rule, window=2)
    known: set[tuple[int, int]] = set()
    calls = iter(method.scorer.asked)
    users = data.train_users

    def answered(user: int, item: int) -> bool:
        return not math.isnan(hashed(user, item, f"reader {user}, version 0"))

    for epoch in range(EPOCHS):
        candidates = before.status[epoch] == CANDIDATE
        for column, items in enumerate([data.train_items, data.negative_sampler.draw(epoch)]):
            wanted = candidates if candidates.dim() == 1 else candidates[:, column]
            expected = list(zip(users[wanted].tolist(), items[wanted].tolist(), strict=True))
            if column == 0:
                expected = [pair for pair in expected if pair not in known]
                known.update(pair for pair in expected if answered(*pair))
            if (observed, sampled)[column] and expected:
                assert next(calls) == expected
    assert next(calls, None) is None and known


@pytest.mark.parametrize("objective", ["bpr", "bce"])
@pytest.mark.parametrize("scored", ["candidates", "all"])
def test_an_observed_pair_is_asked_about_again_only_after_a_revision(
    tmp_path: Path, scored: str, objective: str
) -> None:
    data = catalog(negative_lifetime=EPOCHS)
    _, method, _, _ = run(tmp_path, data, objective, updates=True, scored=scored)
    everything = set(zip(data.train_users.tolist(), data.train_items.tolist(), strict=True))
    known: set[tuple[int, int]] = set()
    versions: Counter[int] = Counter()
    revised, again = 0, 0
    for what, about in method.scorer.events:
        if what == "revise":
            revised += len(about)
            versions.update(about)
            forgotten = {pair for pair in known if pair[0] in about}
            again += len(forgotten)
            known -= forgotten
            continue
        observed = [pair for pair in about if pair in everything]
        assert len(set(observed)) == len(observed) and not known & set(observed)
        if scored == "all" and observed:
            assert known | set(observed) == everything
        known.update(
            pair for pair in observed if not math.isnan(hashed(*pair, f"reader {pair[0]}, version {versions[pair[0]]}"))
        )
    assert revised and again


def test_unanswered_is_not_asked(tmp_path: Path) -> None:
    """Also after a resume, and of a scorer that knows nothing but NaN: a judge may be out of reach for a while."""
    data = catalog()
    everything = sorted(zip(data.train_users.tolist(), data.train_items.tolist(), strict=True))
    unanswered = [pair for pair in everything if pair[1] % 3]
    down = FakeScorer(lambda user, item, preference: NAN if item % 3 else 8.0)
    trainer = quiet(tmp_path, *Method(down, scored="all").without_updates, max_epochs=2)
    trainer.fit(playback(data, EPOCHS), data)
    trainer.save_checkpoint(tmp_path / "down.ckpt")
    assert [sorted(asked) for asked in down.asked] == [everything, unanswered]
    back = FakeScorer(lambda user, item, preference: 8.0)
    method = Method(back, scored="all")
    quiet(tmp_path, *method.without_updates, max_epochs=EPOCHS).fit(
        playback(data, EPOCHS), data, ckpt_path=tmp_path / "down.ckpt"
    )
    assert [sorted(asked) for asked in back.asked] == [unanswered]


@pytest.mark.parametrize(("fault", "cause"), [("no route to host", "could not be asked"), ("", "item has no text")])
def test_silence_is_explained_by_its_cause(tmp_path: Path, fault: str, cause: str) -> None:
    """By what happened in this epoch: an outage that is over explains nothing."""

    class Down(FakeScorer):
        def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
            if self.asked:
                self.fault = fault or self.fault
                return torch.full((len(pairs),), NAN)
            self.fault = "over by now"
            scores = super().score(preferences, pairs)
            return scores.where(torch.arange(len(pairs)) % 20 > 0, 5.0)

    data = catalog()
    texts: list[dict[str, str]] = list(data.interactions.items)
    method = Method(Down(lambda user, item, preference: NAN), scored="all", texts=texts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet(tmp_path, *method.without_updates, Unsilence(method.llm), max_epochs=2).fit(playback(data, 2), data)
    told = [str(warning.message) for warning in caught if "got no score" in str(warning.message)]
    assert len(told) == 2 and "over by now" in told[0] and "prompt" not in told[0]
    assert cause in told[1] and fault in told[1] and "over by now" not in told[1]
    assert ("prompt" in told[1]) == (not fault)


class Unsilence(Callback):
    """Lets the warning come in every epoch."""

    def __init__(self, llm: LLMSampleScorer) -> None:
        self.llm = llm

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.llm._silent = False


@pytest.mark.parametrize("rule", ["paper", "consistent", "joint"])
@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_without_answers_the_loss_decides(tmp_path: Path, rule: str, objective: str) -> None:
    scorer = FakeScorer(lambda user, item, preference: NAN)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "LLMSampleScorer")  # no answer is no judgement to be warned of, but
        warnings.filterwarnings("ignore", ".*got no score")
        data, method = catalog(), Method(scorer, rule=rule)
        before, after = Keep(method.recorder), Keep(method.recorder)
        trainer = quiet(tmp_path, method.recorder, method.pruning, before, method.llm, after, max_epochs=EPOCHS)
        with pytest.raises(RuntimeError, match=r"none of the \d+ pairs .* got a score.*t-ce"):
            trainer.fit(playback(data, EPOCHS, objective), data)
    assert scorer.pairs and len(after.weights) == EPOCHS  # only when the fit ends
    assert (tmp_path / "judgements.jsonl").is_file()
    for one, two in zip(before.weights, after.weights, strict=True):
        assert torch.equal(one, two)
    assert not any((status == HARD).any() for status in after.status)


@pytest.mark.parametrize("answered_pairs", [0, 1])
def test_a_run_in_which_nothing_was_scored_does_not_end_as_if_all_were_well(
    tmp_path: Path, answered_pairs: int
) -> None:
    """However few the pairs are, also after a resume; but one score in any epoch is a score."""
    left = iter([7.0] * answered_pairs)
    data = catalog()
    scorer = FakeScorer(lambda user, item, preference: next(left, NAN))
    few = {"max_drop_rate": 0.02}
    method = Method(scorer, pruning=few)
    trainer = quiet(tmp_path, *method.without_updates, max_epochs=2)
    with nullcontext() if answered_pairs else pytest.raises(RuntimeError, match="got a score"):
        trainer.fit(playback(data, EPOCHS), data)
    assert 0 < len(scorer.pairs) < 20
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = quiet(tmp_path, *Method(scorer, pruning=few).without_updates, max_epochs=EPOCHS)
    with nullcontext() if answered_pairs else pytest.raises(RuntimeError, match="got a score"):
        again.fit(playback(data, EPOCHS), data, ckpt_path=tmp_path / "end.ckpt")
    # A checkpoint of the last epoch leaves nothing to be asked, and the outcome is as it was.
    again.save_checkpoint(tmp_path / "last.ckpt")
    finished = quiet(tmp_path, *Method(scorer, pruning=few).without_updates, max_epochs=EPOCHS)
    with nullcontext() if answered_pairs else pytest.raises(RuntimeError, match="got a score"):
        finished.fit(playback(data, EPOCHS), data, ckpt_path=tmp_path / "last.ckpt")


def test_another_judge_is_not_blamed_for_what_it_was_never_asked(tmp_path: Path) -> None:
    class Other(FakeScorer):
        pass

    data = catalog()
    trainer = quiet(tmp_path, *Method(FakeScorer()).without_updates, max_epochs=2)
    trainer.fit(playback(data, 2), data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    finished = quiet(tmp_path, *Method(Other()).without_updates, max_epochs=2)
    with pytest.warns(UserWarning, match="those of another judge"):
        finished.fit(playback(data, 2), data, ckpt_path=tmp_path / "end.ckpt")


def test_preferences_come_from_all_observed_items_of_those_who_are_asked_about(tmp_path: Path) -> None:
    data = catalog()
    _, method, _, _ = run(tmp_path, data, rule="consistent")
    assert method.scorer.histories.keys() == {user for user, _ in method.scorer.pairs}
    for user, items in method.scorer.histories.items():
        assert items == data.train_items[data.train_users == user].tolist()
    preferences = method.llm.judgements.preferences.current
    assert preferences == {user: f"reader {user}, version 0" for user in method.scorer.histories}


def test_users_in_any_order_get_their_own_items(tmp_path: Path) -> None:
    """A recorder with users and items of one's own; the samples of a user need not stand together."""
    data = catalog()
    order = torch.randperm(len(data.train_users), generator=torch.Generator().manual_seed(0))
    data.train_users, data.train_items = data.train_users[order], data.train_items[order]
    method = Method(scored="all")
    method.recorder = SampleRecorder(3, users=data.train_users, items=data.train_items)
    quiet(tmp_path, method.recorder, method.pruning, method.llm, method.updater, max_epochs=EPOCHS).fit(
        playback(data, EPOCHS), data
    )
    assert method.scorer.histories.keys() == set(range(40)) and method.scorer.revisions
    for user, items in method.scorer.histories.items():
        assert items == data.train_items[data.train_users == user].tolist()


def test_the_file_of_changes_is_in_the_run_s_folder(tmp_path: Path) -> None:
    data = catalog()
    method = Method(scored="all")
    logger = CSVLogger(tmp_path, name="runs")
    quiet(tmp_path, *method.callbacks, max_epochs=EPOCHS, logger=logger).fit(playback(data, EPOCHS), data)
    path = tmp_path / "runs" / "version_0" / "preferences.jsonl"
    changes = [json.loads(line) for line in path.read_text().splitlines()]
    assert changes == method.llm.judgements.preferences.changes
    summaries = [change for change in changes if change["cause"] == "summary"]
    assert [change["user"] for change in summaries] == list(range(40)) and {c["epoch"] for c in summaries} == {0}
    revisions = [change for change in changes if change["cause"] == "revision"]
    assert revisions and all(change["before"] != change["after"] for change in revisions)
    known = {book["title"] for book in data.interactions.items}
    titles = [title for change in revisions for name in ("disliked", "liked") for title in change.get(name, [])]
    assert titles and set(titles) <= known


def test_what_is_logged(tmp_path: Path) -> None:
    data = catalog()
    method = Method(rule="consistent")
    method.scorer.usage = SimpleNamespace(tokens=70, calls=7)  # type: ignore[attr-defined]
    after = Keep(method.recorder)
    logger = CSVLogger(tmp_path, name="runs")
    quiet(tmp_path, *method.without_updates, after, max_epochs=EPOCHS, logger=logger).fit(playback(data, EPOCHS), data)
    table = pd.read_csv(tmp_path / "runs" / "version_0" / "metrics.csv").groupby("epoch").last()
    assert {"denoise/drop_rate", "denoise/noise_set", "denoise/candidates", "train/loss"} <= set(table)
    for epoch in range(EPOCHS):
        row, status = table.loc[epoch], after.status[epoch]
        assert row["denoise/hard"] == int((status == HARD).sum())
        assert row["denoise/dropped"] == int((status == NOISE).sum())
        assert row["llm/pairs"] == row["denoise/candidates"]
        levels = [row[f"llm/score_{level}"] for level in range(1, 11)]
        assert sum(levels) == row["llm/pairs"] - row["llm/unanswered"]
        assert row["llm/tokens"] == 70 and row["llm/calls"] == 7
    answers = [hashed(user, item, f"reader {user}, version 0") for user, item in method.scorer.pairs]
    assert table["llm/unanswered"].sum() >= sum(answer != answer for answer in answers) > 0
    assert "llm/score_11" not in table and "llm/score_0" not in table


def test_levels_are_rounded(tmp_path: Path) -> None:
    data = catalog()
    values = [1.0, 1.4, 1.6, 9.6, 10.0]
    method = Method(FakeScorer(lambda user, item, preference: values[item % 5]), scored="all")
    trainer = quiet(tmp_path, *method.without_updates)
    trainer.fit(playback(data, 1), data)
    counts = torch.bincount(data.train_items % 5)
    logged = {level: float(trainer.callback_metrics[f"llm/score_{level}"]) for level in range(1, 11)}
    expected = {1: counts[0] + counts[1], 2: counts[2], 10: counts[3] + counts[4]}
    assert logged == {level: float(expected.get(level, 0)) for level in range(1, 11)}


def big_catalog() -> SyntheticCatalog:
    """Enough samples for shares to be judged."""
    data = SyntheticCatalog(80, 60, num_topics=5, books_per_reader=20, batch_size=100)
    data.setup()
    return data


@pytest.mark.parametrize(
    ("rule", "score", "share"),
    [
        ("paper", 5.0, "100%"),
        ("consistent", 10.0, "100%"),
        ("consistent", 1.0, "0%"),
        ("joint", 10.0, "100%"),
        ("joint", 1.0, "0%"),
    ],
)
@pytest.mark.parametrize("scored", ["candidates", "all"])
def test_a_judge_that_says_one_thing_is_reported(
    tmp_path: Path, rule: str, score: float, share: str, scored: str
) -> None:
    """The paper's rule compares the two items of a pair: a gap of 0 is always hard."""
    data = big_catalog()
    scored = scored if rule == "joint" else "candidates"
    method = Method(FakeScorer(lambda user, item, preference: score), rule=rule, scored=scored)
    found = r"fit \(5.5 or more\)" if rule == "joint" else "were judged hard"
    kind = "right" if share == "100%" else "noise"
    message = f"{share} of the suspicious items that the scorer answered {found}: .*{kind}, it does .*preferences"
    with pytest.warns(UserWarning, match=message):
        quiet(tmp_path, *method.without_updates, max_epochs=2).fit(playback(data, 2), data)


@pytest.mark.parametrize(("answered", "reported"), [(0, True), (4, True), (6, False)])
def test_a_judge_that_does_not_answer_is_reported_once(tmp_path: Path, answered: int, reported: bool) -> None:
    """With the last answer that could not be used, if the scorer has one."""

    def answer(user: int, item: int, preference: Preference) -> float:
        return 5.5 + (item % 3 - 1) * 2 if (user + item) % 10 < answered else NAN

    data, scorer = big_catalog(), FakeScorer(answer)
    scorer.refused = "I am only a model."  # type: ignore[attr-defined]
    method = Method(scorer, rule="joint", scored="all")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with nullcontext() if answered else pytest.raises(RuntimeError, match="The last answer was 'I am only a model"):
            quiet(tmp_path, *method.without_updates, max_epochs=3).fit(playback(data, 3), data)
    told = [str(warning.message) for warning in caught if "got no score" in str(warning.message)]
    assert len(told) == reported and all("one that is not: 'I am only a model.'" in message for message in told)


def test_a_scorer_that_is_none_is_refused() -> None:
    for wrong in ("EncoderScorer", FakeScorer):
        with pytest.raises(TypeError, match="must be a scorer's object"):
            LLMSampleScorer(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_a_judge_that_tells_apart_is_not_reported(tmp_path: Path, objective: str) -> None:
    data = big_catalog()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "LLMSampleScorer")
        for rule in ("paper", "joint"):
            method = Method(rule=rule)
            quiet(tmp_path, *method.without_updates, max_epochs=2).fit(playback(data, 2, objective), data)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("steady", [False, True])
def test_a_judge_that_contradicts_itself_is_reported(tmp_path: Path, steady: bool) -> None:
    def answer(user: int, item: int, preference: Preference) -> float:
        version = 0 if steady else int(str(preference)[-1])
        return 8.0 if (item + version) % 2 else 3.0

    data = big_catalog()
    method = Method(FakeScorer(answer), scored="all")
    method.updater.confidence_epochs = 1
    trainer = quiet(tmp_path, *method.callbacks, max_epochs=EPOCHS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(playback(data, EPOCHS), data)
    assert method.scorer.revisions
    told = [str(warning.message) for warning in caught if "contradicts itself: after revisions" in str(warning.message)]
    assert bool(told) != steady
    assert float(trainer.callback_metrics["llm/agreement"]) == (1.0 if steady else 0.0)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("steady", [False, True])
def test_a_judge_that_contradicts_itself_on_similar_items_is_reported(tmp_path: Path, steady: bool) -> None:
    """Items 2 k and 2 k + 1 are branches of one chain; no other two share a word."""
    data = big_catalog()
    texts = [{"title": f"chain{item // 2} shop{item // 2}", "city": f"town{item}"} for item in range(60)]
    scorer = FakeScorer(lambda user, item, preference: 8.0 if (item // 2 if steady else item) % 2 else 3.0)
    method = Method(scorer, scored="all", texts=texts)
    trainer = quiet(tmp_path, *method.without_updates, max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(playback(data, 2), data)
    told = [str(warning.message) for warning in caught if "contradicts itself" in str(warning.message)]
    read = set(zip(data.train_users.tolist(), data.train_items.tolist(), strict=True))
    pairs = sum((user, item + 1) in read for user, item in read if item % 2 == 0)  # neighbours in the user's list
    assert pairs > 20 and len(told) == (not steady)
    assert steady or f"of two similar items of one user, {pairs} times out of {pairs} only one fits" in told[0]
    assert float(trainer.callback_metrics["llm/similar_agreement"]) == (1.0 if steady else 0.0)


def test_the_scorer_is_prepared_with_texts_and_the_noisy_interactions(tmp_path: Path) -> None:
    data = catalog()
    _, method, _, _ = run(tmp_path, data)
    ((texts, pairs),) = method.scorer.prepared
    assert texts is data.interactions.items
    assert torch.equal(pairs, torch.stack([data.train_users, data.train_items], dim=1))


def test_texts_of_one_s_own(tmp_path: Path) -> None:
    data = catalog()
    texts = [{"ISBN": "1", "Book-Title": f"Book {item}", "about": "x"} for item in range(49)] + [{"about": "no name"}]
    method = Method(texts=texts)
    data.interactions.items = []
    quiet(tmp_path, *method.callbacks).fit(playback(data, 1), data)
    assert method.scorer.prepared[0][0] is texts
    assert [method.llm.judgements.titles[item] for item in (3, 49)] == ["Book 3", "item 49"]


@pytest.mark.parametrize("texts", [{0: {"title": "Dune"}}, ["Dune", "Emma"]])
def test_texts_of_another_form_are_refused(texts: Any) -> None:
    with pytest.raises(TypeError, match=r"texts must be a list with a dict .* for each item"):
        LLMSampleScorer(FakeScorer(), texts=texts)


def test_texts_of_too_few_items(tmp_path: Path) -> None:
    data = catalog()
    method = [SampleRecorder(), VariancePruning(), LLMSampleScorer(FakeScorer(), texts=[{"title": "Dune"}] * 3)]
    with pytest.raises(RuntimeError, match=r"texts of 3 items, but the interactions name item \d+"):
        quiet(tmp_path, *method).fit(playback(data, 1), data)


def test_without_texts_the_remedy_is_named(tmp_path: Path) -> None:
    data = catalog()
    data.interactions.items, data.interactions.name = [], "shop/clicks.inter"
    match = r"items\.jsonl .* interactions \(shop/clicks\.inter\).*LLMSampleScorer\(texts=\.\.\.\)"
    with pytest.raises(RuntimeError, match=match):
        quiet(tmp_path, *Method().callbacks).fit(playback(data, 1), data)


def test_what_stands_before_it(tmp_path: Path) -> None:
    data, scorer = catalog(), FakeScorer()
    for callbacks, message in (
        ([LLMSampleScorer(scorer)], "LLMSampleScorer needs SampleRecorder"),
        ([SampleRecorder(), LLMSampleScorer(scorer)], "LLMSampleScorer needs VariancePruning"),
        ([SampleRecorder(), LLMSampleScorer(scorer), VariancePruning()], "VariancePruning must come before LLMSample"),
    ):
        with pytest.raises(RuntimeError, match=message):
            quiet(tmp_path, *callbacks).fit(playback(data, 1), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "best"}, "rule is 'best'; it must be one of paper, consistent, joint"),
        ({"scored": "some"}, "scored is 'some'; it must be 'candidates' or 'all'"),
        ({"rule": "paper", "scored": "all"}, "'paper' asks about candidates only"),
        ({"rule": "consistent", "scored": "all"}, "'consistent' asks about candidates only"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLMSampleScorer(FakeScorer(), **arguments)


@pytest.mark.parametrize("named", [False, True])
def test_judgements_say_what_was_decided_of_the_suspicious_in_the_last_epoch(tmp_path: Path, named: bool) -> None:
    """Of data that was numbered anew also by the source's own names."""
    data = catalog()
    if named:
        data.interactions.user_names = [f'u"{user}' for user in range(data.num_users)]
        data.interactions.item_names = [f"i{item}" for item in range(data.num_items)]
    data.interactions.items[:] = [{"title": f'"{item}"\\ü'} for item in range(data.num_items)]
    *_, after = run(tmp_path, data)
    status = after.status[-1]
    rows = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["sample"] for row in rows] == (status != CLEAN).nonzero().flatten().tolist()
    scores = scores_of(data, data.train_items)
    answered = 0
    for row in rows:
        sample, item = row["sample"], int(data.train_items[row["sample"]])
        score = row.pop("score")
        if named:
            assert (row.pop("user_id"), row.pop("item_id")) == (f'u"{row["user"]}', f"i{row['item']}")
        assert row == {
            **{"epoch": EPOCHS - 1, "sample": sample, "user": int(data.train_users[sample]), "item": item},
            **{"title": f'"{item}"\\ü', "kept": int(status[sample]) == HARD},
        }
        assert score is None or score == pytest.approx(float(scores[sample]), abs=0.006)
        answered += score is not None
    assert 0 < answered < len(rows)


class CountingScorer(FakeScorer):
    """Counts a call of ten tokens for each pair."""

    def __init__(self) -> None:
        super().__init__(hashed)
        self.usage = Usage()

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        self.usage.add("T_score", calls=len(pairs), prompt_tokens=10 * len(pairs))
        return super().score(preferences, pairs)


def test_a_resumed_run_goes_on_with_what_was_used_and_answered(tmp_path: Path) -> None:
    data = catalog()
    usages, asked = [], []
    for epochs, checkpoint in ((4, None), (2, None), (4, tmp_path / "two.ckpt")):
        method = Method(CountingScorer(), scored="all")
        trainer = quiet(tmp_path, *method.callbacks, max_epochs=epochs)
        trainer.fit(playback(data, 4), data, ckpt_path=checkpoint)
        if epochs == 2:
            trainer.save_checkpoint(tmp_path / "two.ckpt")
        usages.append(method.scorer.usage.state_dict())  # type: ignore[attr-defined]
        asked.append(method.scorer.pairs)
        assert float(trainer.callback_metrics["llm/calls"]) == usages[-1]["T_score"]["calls"]
    whole, first, resumed = asked
    assert resumed and first + resumed == whole  # nothing is asked again
    assert usages[2] == usages[0] != usages[1]


class OtherScorer(CountingScorer):
    fingerprint = "another model"


def test_another_judge_is_asked_anew_and_what_was_used_stays_counted(tmp_path: Path) -> None:
    """What the old one said would decide, and nobody would see that the new one was never asked."""
    data = catalog()
    method = Method(CountingScorer(), scored="all")
    trainer = quiet(tmp_path, *method.without_updates, max_epochs=2)
    trainer.fit(playback(data, 4), data)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    used = method.scorer.usage.calls  # type: ignore[attr-defined]

    other = Method(OtherScorer(), scored="all")
    trainer = quiet(tmp_path, *other.without_updates, max_epochs=3)
    message = (
        r"scores are those of another judge \(CountingScorer\), and this one is OtherScorer \| fingerprint another"
    )
    with pytest.warns(UserWarning, match=message):
        trainer.fit(playback(data, 4), data, ckpt_path=tmp_path / "two.ckpt")
    scorer: Any = other.scorer
    assert sorted(scorer.pairs) == sorted(zip(data.train_users.tolist(), data.train_items.tolist(), strict=True))
    assert scorer.usage.calls == used + len(scorer.pairs)
    kept = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]["LLMSampleScorer"]
    assert kept["judge"] == "CountingScorer"


@pytest.mark.parametrize("value", [float("nan"), None, 1984, ["a", "b"]])
def test_a_field_that_is_no_text_is_named(value: Any) -> None:
    """As a table with a missing title gives it; a float would crash deep in a prompt, after the first epoch."""
    texts: list[Any] = [{"title": "Dune"}, {"title": value}]
    with pytest.raises(TypeError, match=r"texts\[1\]\['title'\] is .*Leave out what is missing"):
        LLMSampleScorer(FakeScorer(), texts=texts)


class LimitedScorer(CountingScorer):
    """Answers as long as its budget lasts."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__()
        self.answer = lambda user, item, preference: 8.0
        self.budget = Budget(self.usage, max_tokens)

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        scores = torch.full((len(pairs),), NAN)
        for row, pair in enumerate(pairs):
            if self.budget.admits("T_score", 1, 10):
                scores[row : row + 1] = super().score(preferences, pair[None])
        return scores


@pytest.mark.filterwarnings("ignore:The rest of the token budget", "ignore:LLMSampleScorer")
def test_a_budget_that_was_used_up_stays_so_until_it_is_raised(tmp_path: Path) -> None:
    data = catalog()

    def fit(max_tokens: int, epochs: int, checkpoint: Path | None = None) -> tuple[Any, Trainer]:
        method = Method(LimitedScorer(max_tokens), scored="all")
        trainer = quiet(tmp_path, *method.without_updates, max_epochs=epochs)
        trainer.fit(playback(data, 3), data, ckpt_path=checkpoint)
        return method.scorer, trainer

    path, samples = tmp_path / "two.ckpt", len(data.train_users)
    scorer, trainer = fit(105, 2)
    assert len(scorer.pairs) == 10 and scorer.budget.exhausted
    trainer.save_checkpoint(path)
    same, _ = fit(105, 3, path)
    assert same.budget.exhausted and not same.pairs and same.usage.tokens == 100
    raised, _ = fit(10 * samples, 3, path)
    assert not set(scorer.pairs) & set(raised.pairs) and raised.usage.tokens == 10 * samples
    assert len(raised.pairs) == samples - 10 and not raised.budget.exhausted  # what had no answer was asked again


def test_what_several_processes_had_used_is_shared_out_among_fewer() -> None:
    scorer = CountingScorer()
    judgements = Judgements(scorer, [], torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    state = judgements.merged([judgements.own])  # before any fit
    one, two = Usage(), Usage()
    one.add("T_score", calls=3, prompt_tokens=30)
    two.add("T_score", calls=4, prompt_tokens=40, answer_tokens=1)
    two.add("T_sum", calls=1)
    judgements.load_state_dict(state | {"usage": [one.state_dict(), two.state_dict()], "exhausted": [None, None]})
    usage: Usage = scorer.usage
    assert usage.tokens == 71 and usage.calls == 8
