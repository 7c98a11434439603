"""Denoising methods, each as one object that makes its callbacks in the right order.

``Trainer(callbacks=[*LLMHD(judge)])`` in Python, ``--denoising LLMHD --denoising.scorer EncoderScorer`` on the command
line. The callbacks are public too, for those who compose a method of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pytorch_lightning.callbacks import Callback

from llmhd_pl.batches import Key
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
from llmhd_pl.callbacks.llm_sample_scorer import Scored
from llmhd_pl.callbacks.preference_updater import Among
from llmhd_pl.callbacks.variance_pruning import Candidates
from llmhd_pl.denoising.rules import Rule
from llmhd_pl.llm.scorer import Scorer, check_scorer
from llmhd_pl.training_data import Ids

_EPOCHS = 10
"""The default of ``ramp_epochs``, which a configuration may have beside ``ramp_iterations``."""


class Denoising(ABC):
    """A denoising method. Iterating over it gives new callbacks, in the order in which the trainer needs them."""

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks())

    def __getattr__(self, name: str) -> Any:
        # A trainer that was given the method itself looks for a callback's hooks.
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}. It is not a callback but makes several of them: give "
            "the trainer callbacks=[*method], with the star."
        )

    @abstractmethod
    def callbacks(self) -> list[Callback]:
        """Return new callbacks of the method, in the order in which the trainer needs them."""


class LossDropping(Denoising):
    """Drop the samples with the highest losses: the first rung of the paper's ablation.

    Args:
        drop_rate: The largest share of the *observed interactions* that is dropped, with either objective.
        ramp_epochs: The number of epochs until the drop rate reaches it.
        ramp_iterations: The number of optimiser steps until then, in place of ``ramp_epochs``; the paper's alpha. None
            counts in epochs.
        graph_patience: A sample that was dropped in so many epochs in a row also leaves the graph of a graph model
            (``GraphPruning``). None leaves the graph as it is.
        audit: Log how many of the dropped samples are noise, for data whose noise is known (``NoiseAudit``).
        window: The number of epochs of predictions that the variance is taken over; the paper's m.
        weight_key: Where the batch has the weight that the module multiplies its losses by, for a module without
            ``SampleWeights``: a name, or a path such as ("features", "weight").
        users: The user of each training sample, [n]; None takes ``train_users`` of the trainer's data module.
        items: The observed item of each training sample, [n]; None takes ``train_items``.
        labels: Whether the user liked the item of each training sample, 0 or 1, [n]; None: all are likes.
        noise: Which training samples are known to be noise, [n], for ``audit``.
        sample_key: Where the batch has the numbers of the samples: a name, or a path.
        keep: The number of epochs that a loss and a decision stay valid for a sample that is not seen again; None is
            the window.
        decide_every: The number of optimiser steps after which a decision is made, in place of an epoch: for streams
            without an end. The ramp must be in ``ramp_iterations`` then.

    Raises:
        ValueError: If the ramp has both lengths: ``ramp_iterations``, and another ``ramp_epochs`` than the default.
    """

    def __init__(
        self,
        drop_rate: float = 0.2,
        ramp_epochs: int = 10,
        ramp_iterations: int | None = None,
        graph_patience: int | None = None,
        audit: bool = False,
        window: int = 5,
        weight_key: Key | None = None,
        users: Ids | None = None,
        items: Ids | None = None,
        labels: Ids | None = None,
        noise: Ids | None = None,
        sample_key: Key = "sample",
        keep: int | None = None,
        decide_every: int | None = None,
    ) -> None:
        self.drop_rate: float | Literal["auto"] = drop_rate  # "auto" is for a child with a judge
        self.ramp = _ramp(ramp_epochs, ramp_iterations)
        self.graph_patience, self.audit = graph_patience, audit
        self.recorder: dict[str, Any] = {
            **{"window": window, "weight_key": weight_key, "users": users, "items": items, "labels": labels},
            **{"noise": noise, "sample_key": sample_key, "keep": keep, "decide_every": decide_every},
        }

    def callbacks(self) -> list[Callback]:
        """Return the recorder, the pruning, and what looks at its decisions."""
        pruning = VariancePruning(self.drop_rate, rate_of="interactions", **self.ramp)
        return [SampleRecorder(**self.recorder), pruning, *self.observers()]

    def observers(self) -> list[Callback]:
        """Return the callbacks that come after those that decide."""
        graph = [] if self.graph_patience is None else [GraphPruning(self.graph_patience)]
        return [*graph, *([NoiseAudit()] if self.audit else [])]


class LLMHD(LossDropping):
    """LLMHD (arXiv 2409.10343): among the samples with the highest losses, keep those that a language model finds hard.

    Args:
        scorer: The judge: ``QuantizedLLM``, ``EndpointScorer``, ``EncoderScorer``, ``LexicalScorer``,
            ``CascadeScorer`` or one of yours.
        rule: "joint" (loss and score decide together), "paper" (as printed) or "consistent" (a suspicious sample is
            kept if its item fits the user).
        drop_rate: The share of the *observed interactions* to drop, with either objective: the rule "joint" drops that
            much once the ramp is done, the others at most. "auto" lets the judge estimate before the first epoch which
            share came about by chance (``llmhd audit``), and drops nothing, with a warning, if it cannot tell.
        ramp_epochs: The number of epochs until the drop rate reaches it.
        ramp_iterations: The number of optimiser steps until then, in place of ``ramp_epochs``; the paper's alpha.
        candidate_fraction: The share of the suspicious samples that become candidates; the paper's eps_v.
        candidates: "variance", or "random" for the paper's ablation.
        scored: Which interactions the judge is asked about: "candidates", or "all" observed ones (rule "joint" only).
            None chooses "all" for the rule "joint" and a judge that costs nothing, and "candidates" otherwise.
        score_weight: The weight of the score against the loss, in the rule "joint".
        confidence_epochs: Revise the preferences by items that were flagged in so many epochs; the paper's eps_gamma.
            None never revises them.
        among: Which observed items may be flagged as false positives: "all", as in the paper, or "dropped".
        graph_patience: See ``LossDropping``, as for what follows unless it is said here.
        audit: Log how good the decisions are, for data whose noise is known.
        window: The number of epochs of predictions that are kept.
        weight_key: The name of the weights in the batch, for a module without ``SampleWeights``.
        users: The user of each training sample.
        items: The observed item of each training sample.
        texts: The text fields of every item, by its number; None takes them from the trainer's data module.
        false_discoveries: With ``drop_rate="auto"``, the largest share of what is dropped that may be expected to fit
            its user after all. None drops as much as came about by chance.
    """

    def __init__(
        self,
        scorer: Scorer,
        rule: Rule = "joint",
        drop_rate: float | Literal["auto"] = 0.2,
        ramp_epochs: int = 10,
        ramp_iterations: int | None = None,
        candidate_fraction: float = 0.5,
        candidates: Candidates = "variance",
        scored: Scored | None = None,
        score_weight: float = 1.0,
        confidence_epochs: int | None = None,
        among: Among = "all",
        graph_patience: int | None = None,
        audit: bool = False,
        window: int = 5,
        weight_key: Key | None = None,
        users: Ids | None = None,
        items: Ids | None = None,
        texts: Sequence[Mapping[str, str]] | None = None,
        labels: Ids | None = None,
        noise: Ids | None = None,
        sample_key: Key = "sample",
        keep: int | None = None,
        decide_every: int | None = None,
        false_discoveries: float | None = None,
    ) -> None:
        super().__init__(  # which by itself has nobody whom "auto" could ask
            *(drop_rate, ramp_epochs, ramp_iterations, graph_patience, audit, window, weight_key, users, items),  # type: ignore[arg-type]
            *(labels, noise, sample_key, keep, decide_every),
        )
        check_scorer(scorer)
        self.false_discoveries = false_discoveries
        if scored is None:
            scored = "all" if rule == "joint" and scorer.usage is None else "candidates"
        self.scorer, self.rule, self.scored, self.score_weight = scorer, rule, scored, score_weight
        self.candidate_fraction, self.candidates = candidate_fraction, candidates
        self.confidence_epochs, self.among, self.texts = confidence_epochs, among, texts

    def callbacks(self) -> list[Callback]:
        """Return the recorder, the pruning, the judge, and what comes after them."""
        pruning = VariancePruning(
            self.drop_rate,
            false_discoveries=self.false_discoveries,
            candidate_fraction=self.candidate_fraction,
            candidates=self.candidates,
            rate_of="interactions",
            **self.ramp,
        )
        judge = LLMSampleScorer(self.scorer, self.rule, self.scored, self.score_weight, self.texts)
        updater = [] if self.confidence_epochs is None else [PreferenceUpdater(self.confidence_epochs, self.among)]
        return [SampleRecorder(**self.recorder), pruning, judge, *updater, *self.observers()]


class TCE(Denoising):
    """T-CE, or T-BPR with pairwise losses (Wang et al., WSDM 2021): drop the highest losses of each batch.

    Args:
        drop_rate: The largest share of the *observed interactions* that is dropped, with either objective. The
            published rate, which ``TruncatedLoss`` takes, counts the sampled items too: it is half of this one with
            pointwise losses.
        ramp_epochs: The number of epochs until the drop rate reaches it.
        ramp_iterations: The number of optimiser steps until then, in place of ``ramp_epochs``.
    """

    def __init__(self, drop_rate: float = 0.2, ramp_epochs: int = 10, ramp_iterations: int | None = None) -> None:
        self.drop_rate, self.ramp = drop_rate, _ramp(ramp_epochs, ramp_iterations)

    def callbacks(self) -> list[Callback]:
        """Return the callback."""
        return [TruncatedLoss(self.drop_rate, rate_of="interactions", **self.ramp)]


class RCE(Denoising):
    """R-CE, or R-BPR with pairwise losses (Wang et al., WSDM 2021): a loss weighs less the higher it is.

    Args:
        beta: How steeply the weight falls; the paper uses .2 to .3.
    """

    def __init__(self, beta: float = 0.25) -> None:
        self.beta = beta

    def callbacks(self) -> list[Callback]:
        """Return the callback."""
        return [ReweightedLoss(self.beta)]


class DCF(Denoising):
    """DCF (He et al., KDD 2024): drop by a bound on the mean loss of several epochs, and relabel some.

    Args:
        drop_rate: The largest share of the *observed interactions* that is dropped; see ``TCE``.
        ramp_epochs: The number of epochs until the drop rate reaches it.
        ramp_iterations: The number of optimiser steps until then, in place of ``ramp_epochs``.
        relabel_ratio: The share of the samples to be dropped that is relabelled instead.
        num_samples: The number of training interactions; None takes it from the trainer's data module.
    """

    def __init__(
        self,
        drop_rate: float = 0.2,
        ramp_epochs: int = 10,
        ramp_iterations: int | None = None,
        relabel_ratio: float = 0.05,
        num_samples: int | None = None,
    ) -> None:
        self.drop_rate, self.ramp = drop_rate, _ramp(ramp_epochs, ramp_iterations)
        self.relabel_ratio, self.num_samples = relabel_ratio, num_samples

    def callbacks(self) -> list[Callback]:
        """Return the callback."""
        given = {"relabel_ratio": self.relabel_ratio, "num_samples": self.num_samples} | self.ramp
        return [DoubleCorrection(self.drop_rate, rate_of="interactions", **given)]


class NoiseOracle(Denoising):
    """Drop exactly the noise that the data knows of, for comparison. It is no method.

    Args:
        graph: Take the noise out of the graph of a graph model too.
        noise: Which training samples are noise, [n]; None takes ``noise_mask`` of the trainer's data module.
    """

    def __init__(self, graph: bool = False, noise: Ids | None = None) -> None:
        self.graph, self.noise = graph, noise

    def callbacks(self) -> list[Callback]:
        """Return the callback."""
        return [Oracle(self.graph, self.noise)]


def _ramp(epochs: int, iterations: int | None) -> dict[str, Any]:
    """The callbacks' arguments for a ramp, which know steps first and epochs in their place."""
    if iterations is not None and epochs != _EPOCHS:  # both are in every config.yaml that a run with steps has saved
        raise ValueError(
            f"ramp_epochs is {epochs}, but ramp_iterations is {iterations} too, and would be the one that holds. For a "
            f"ramp of {epochs} epochs, set ramp_iterations to None (on the command line --denoising.ramp_iterations "
            "null); for one in optimiser steps, leave ramp_epochs out."
        )
    return {"ramp_epochs": epochs} if iterations is None else {"ramp_iterations": iterations}
