"""The objects that make a method's callbacks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor

import llmhd_pl
from llmhd_pl import DCF, LLMHD, MF, RCE, TCE, LexicalScorer, LossDropping, NoiseOracle, SyntheticCatalog
from llmhd_pl.callbacks import (
    DoubleCorrection,
    GraphPruning,
    LLMSampleScorer,
    NoiseAudit,
    Oracle,
    PreferenceUpdater,
    ReweightedLoss,
    SampleRecorder,
    TruncatedLoss,
    VariancePruning,
)
from llmhd_pl.llm.judge import EmbeddedJudge


def small() -> SyntheticCatalog:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=12, batch_size=60, negative_lifetime=1)
    data.setup()
    return data


def trainer(folder: Path, *callbacks: Any, **arguments: Any) -> Any:
    from pytorch_lightning import Trainer

    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=folder, callbacks=list(callbacks),
        log_every_n_steps=1, **arguments,
    )  # fmt: skip


def kinds(method: Any) -> list[type]:
    return [type(callback) for callback in method]


def test_the_callbacks_come_in_the_order_in_which_they_act() -> None:
    judge = LexicalScorer()
    assert kinds(LLMHD(judge)) == [SampleRecorder, VariancePruning, LLMSampleScorer]
    everything = LLMHD(judge, confidence_epochs=3, graph_patience=2, audit=True)
    assert kinds(everything) == [
        *(SampleRecorder, VariancePruning, LLMSampleScorer, PreferenceUpdater, GraphPruning, NoiseAudit)
    ]
    assert kinds(LossDropping(audit=True)) == [SampleRecorder, VariancePruning, NoiseAudit]
    assert kinds(TCE()) == [TruncatedLoss] and kinds(RCE()) == [ReweightedLoss] and kinds(DCF()) == [DoubleCorrection]
    assert kinds(NoiseOracle()) == [Oracle]


def test_each_iteration_gives_new_callbacks_with_the_same_judge() -> None:
    method = LLMHD(LexicalScorer())
    first, second = [*method], [*method]
    assert not {id(callback) for callback in first} & {id(callback) for callback in second}
    assert first[2].scorer is second[2].scorer is method.scorer


def test_arguments_reach_the_callbacks() -> None:
    judge = LexicalScorer()
    method = LLMHD(
        judge, "paper", 0.3, ramp_iterations=70, candidate_fraction=0.4, candidates="random", confidence_epochs=5,
        among="dropped", window=3, weight_key="weight", users=[0], items=[0], texts=[{}],
    )  # fmt: skip
    recorder, pruning, scorer, updater = method
    assert (recorder.window, recorder.weight_key) == (3, "weight")
    assert (pruning.max_drop_rate, pruning.ramp_iterations, pruning.ramp_epochs) == (0.3, 70, None)
    assert (pruning.candidate_fraction, pruning.candidates, pruning.rate_of) == (0.4, "random", "interactions")
    assert (scorer.rule, scorer.scored, scorer.texts) == ("paper", "candidates", [{}])
    assert (updater.confidence_epochs, updater.among) == (5, "dropped")
    assert [*LLMHD(judge)][1].ramp_epochs == 10  # for data of any size
    (dcf,) = DCF(0.3, ramp_epochs=4, relabel_ratio=0.1)
    assert (dcf.max_drop_rate, dcf.ramp_epochs, dcf.relabel_ratio, dcf.rate_of) == (0.3, 4, 0.1, "interactions")
    (rce,), (oracle,) = RCE(0.7), NoiseOracle(graph=True)
    assert rce.beta == 0.7 and oracle.graph


@pytest.mark.parametrize("method", [LossDropping, lambda **given: LLMHD(LexicalScorer(), **given), TCE, DCF])
def test_a_ramp_has_one_length(method: Any) -> None:
    """A ``ramp_epochs`` beside the ``ramp_iterations`` of a configuration would be ignored."""
    message = r"ramp_epochs is 2, but ramp_iterations is 70 .* to None .*--denoising\.ramp_iterations null"
    with pytest.raises(ValueError, match=message):
        method(ramp_epochs=2, ramp_iterations=70)
    lengths = [
        (some.ramp_epochs, some.ramp_iterations)
        for given in ({}, {"ramp_epochs": 2}, {"ramp_iterations": 70}, {"ramp_epochs": 10, "ramp_iterations": 70})
        for some in method(**given)
        if hasattr(some, "ramp_epochs")
    ]
    assert [epochs for epochs, _ in lengths] == [10, 2, None, None]
    assert [iterations for _, iterations in lengths[2:]] == [70, 70]


def test_a_judge_that_costs_nothing_is_asked_about_all_a_paid_one_about_candidates() -> None:
    free, paid = LexicalScorer(), EmbeddedJudge()
    assert LLMHD(free).scored == "all" and LLMHD(paid).scored == "candidates"
    assert LLMHD(free, rule="paper").scored == "candidates"
    assert LLMHD(free, scored="candidates").scored == "candidates" and LLMHD(paid, scored="all").scored == "all"


class Foreign:
    """A judge that does not inherit from ``Scorer``."""

    def prepare(self, items: Any, pairs: Tensor) -> None: ...


@pytest.mark.parametrize("make", [LLMHD, LLMSampleScorer])
def test_a_judge_that_does_not_inherit_is_told_so_at_once(make: Any) -> None:
    with pytest.raises(TypeError, match=r"Foreign lacks usage, budget, refused: let it inherit from llmhd_pl\.Scorer"):
        make(Foreign())
    for wrong in ("EncoderScorer", LexicalScorer, lambda user, item: 5.0):
        message = r"must be a scorer's object.* of your own, inherit from llmhd_pl\.Scorer: docs/extending\.md"
        with pytest.raises(TypeError, match=message):
            make(wrong)


class Weights(MF):
    """Keeps the weights of every step."""

    def weights_and_counts(self, batch: dict[str, Tensor], losses: Tensor) -> tuple[Tensor, Tensor]:
        weights, counts = super().weights_and_counts(batch, losses)
        self.kept = [*getattr(self, "kept", []), weights.view(len(losses), -1)[:, 0]]
        return weights, counts


@pytest.mark.parametrize("objective", ["bpr", "bce"])
@pytest.mark.parametrize("method", [LossDropping, LLMHD, TCE, DCF])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_the_drop_rate_is_a_share_of_the_observed_interactions(
    tmp_path: Path, method: Any, objective: Any, rate: float
) -> None:
    """With BPR and with BCE alike: .2 drops a fifth of them."""
    data = small()
    arguments = {"drop_rate": rate, "ramp_iterations": 1}
    callbacks = method(LexicalScorer(), **arguments) if method is LLMHD else method(**arguments)
    module: LightningModule = Weights(40, 50, objective=objective)
    trainer(tmp_path, *callbacks, max_epochs=3).fit(module, data)
    steps = -(-len(data.train_users) // 60)
    last_epoch = torch.cat(module.kept[-steps:])  # type: ignore[operator]
    dropped = int((last_epoch <= 0).sum())  # DCF turns some of them round
    # T-CE and DCF count in each batch, and a batch has no third of a sample. A sampled item may stay by chance.
    assert abs(dropped - rate * len(data.train_users)) <= (steps if method in (TCE, DCF) else 8)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
@pytest.mark.parametrize("callback", [TruncatedLoss, DoubleCorrection])
def test_the_callbacks_alone_keep_their_published_rates(tmp_path: Path, callback: Any, objective: Any) -> None:
    """Of all samples of a batch: with pointwise losses, twice the rate of the observed items goes."""
    data = small()
    module: LightningModule = Weights(40, 50, objective=objective)
    trainer(tmp_path, callback(0.2, ramp_iterations=1), max_epochs=2).fit(module, data)
    steps = -(-len(data.train_users) // 60)
    dropped = int((torch.cat(module.kept[-steps:]) <= 0).sum())  # type: ignore[operator]
    share = 0.4 if objective == "bce" else 0.2
    assert abs(dropped - share * len(data.train_users)) <= steps


def test_a_method_without_its_star_is_told(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match=r"TCE .* makes several of them: .* callbacks=\[\*method\]"):
        trainer(tmp_path, TCE(), max_epochs=1).fit(MF(40, 50), small())


@pytest.mark.parametrize("ids", [["u1", "u2"], [0.0, 1.0], [0, -1], [True, False], [2**40, "x"]])
def test_identifiers_that_are_no_numbers_are_refused(ids: Any) -> None:
    with pytest.raises(TypeError, match=r"users must be whole numbers from 0, .*pandas\.factorize\(users\)"):
        SampleRecorder(users=ids, items=[0, 1])
    with pytest.raises(TypeError, match=r"items must be whole numbers from 0"):
        LossDropping(users=[0, 1], items=ids).callbacks()


def test_the_wrong_identifier_is_named() -> None:
    with pytest.raises(TypeError, match=r"users\[2\] is .*-7"):
        SampleRecorder(users=[0, 1, -7], items=[0, 1, 2])


def test_an_unknown_rate_is_refused() -> None:
    for callback in (TruncatedLoss, DoubleCorrection, VariancePruning):
        with pytest.raises(ValueError, match="rate_of is 'items'; it must be 'samples' or 'interactions'"):
            callback(rate_of="items")  # type: ignore[operator]


def test_the_public_names_are_there() -> None:
    for name in llmhd_pl.__all__:
        assert getattr(llmhd_pl, name) is not None
    assert set(llmhd_pl.__all__) <= set(dir(llmhd_pl))
    with pytest.raises(AttributeError, match="has no attribute 'LLMDH'"):
        _ = llmhd_pl.LLMDH
