"""CostEstimate: what a run would ask its language model, before anything is asked."""

import math
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from rich.console import Console

from llmhd_pl.callbacks.epoch_end import required
from llmhd_pl.callbacks.llm_sample_scorer import LLMSampleScorer
from llmhd_pl.callbacks.preference_updater import PreferenceUpdater
from llmhd_pl.callbacks.sample_recorder import SampleRecorder
from llmhd_pl.callbacks.variance_pruning import VariancePruning
from llmhd_pl.denoising.rules import asks_about_sampled
from llmhd_pl.llm.estimate import UNAUDITED, estimate
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.llm.prompts import item_profile


class CostEstimate(Callback):
    """Prints the calls and tokens that a fit would take, by ``llmhd_pl.llm.estimate.estimate``, and ends there.

    Append it to a run as it is: ``llmhd fit ... --trainer.callbacks+=llmhd_pl.CostEstimate``. It assumes that the run
    takes all of ``max_epochs`` and that the cache is empty. Of the model only the tokenizer is loaded.

    Raises:
        RuntimeError: If ``LLMSampleScorer`` does not come before it, or if the trainer has no ``max_epochs``.
        TypeError: If the scorer is not simply a language model.
        SystemExit: Always, when the estimate has been printed.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Estimate, print and end."""
        if stage != "fit":
            return
        recorder, pruning = required(trainer, self, SampleRecorder), required(trainer, self, VariancePruning)
        llm = required(trainer, self, LLMSampleScorer)
        scorer, data, texts = llm.scorer, getattr(trainer, "datamodule", None), llm.judgements.texts
        if not isinstance(scorer, LanguageModelScorer):
            raise TypeError(
                f"{type(scorer).__name__} asks no language model, or not that alone, so its cost cannot be estimated "
                "from prompts. llmhd judge measures what any scorer costs."
            )
        if scorer.scoring == "likelihood":
            raise TypeError(
                f"There is no estimate for scoring='likelihood'. It writes no summaries, and each pair takes up to "
                f"history_tokens + item_tokens = {scorer.history_tokens + scorer.item_tokens} tokens."
            )
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise RuntimeError("CostEstimate needs the trainer's max_epochs.")
        callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
        updaters = [callback for callback in callbacks if isinstance(callback, PreferenceUpdater)]
        batch_size = getattr(data, "batch_size", 1024)
        alpha = pruning.ramp_iterations  # the trainer has no data loader yet that could say how long an epoch is
        if pruning.ramp_epochs is not None:
            alpha = pruning.ramp_epochs * math.ceil(len(recorder.users) / batch_size)
        pointwise = recorder.store.pointwise
        usage = estimate(
            scorer.prompts,
            [item_profile(fields, scorer.item_tokens, scorer.count_tokens) for fields in texts],
            list(llm.judgements.histories.values()),
            epochs=trainer.max_epochs,
            batch_size=batch_size,
            eps_l_max=UNAUDITED if pruning.auto else pruning.max_drop_rate,
            alpha=alpha,
            eps_v=pruning.candidate_fraction,
            eps_gamma=updaters[0].confidence_epochs if updaters else None,
            negative_lifetime=getattr(data, "negative_lifetime", None),  # a module of one's own may sample none
            negatives=asks_about_sampled(llm.rule, pointwise, pruning.rate_of == "interactions"),
            pointwise=pointwise,
            everything=llm.scored == "all",
            calibrate=scorer.calibrate,
            audit=pruning.auto,
            score_answer_tokens=scorer.rated_tokens if scorer.scoring == "expected" else 8,
            max_history_tokens=scorer.history_tokens,
            count_tokens=scorer.count_tokens,
        )
        Console().print(usage.table(f"Estimate for {trainer.max_epochs} epochs and an empty cache; nothing was asked"))
        raise SystemExit(0)
