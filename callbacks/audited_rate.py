"""The drop rate that an audit of the training interactions gives."""

import warnings

import numpy as np
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info

from llmhd_pl.audit.measure import audit, suspicious
from llmhd_pl.callbacks.sample_recorder import SampleRecorder


def audited_rate(trainer: Trainer, callback: Callback, recorder: SampleRecorder, right: float | None) -> float:
    """Return the share of the observed interactions to drop.

    Interactions that cannot be judged are not counted as chance. If the judge cannot tell, it is 0, with a warning.

    Args:
        trainer: The trainer; ``LLMSampleScorer`` among its callbacks knows the judge and the texts of the items.
        callback: Who asks, for error messages.
        recorder: Knows the training interactions.
        right: The largest share of what is dropped that may be expected to fit its user. None drops as much as came
            about by chance.

    Raises:
        RuntimeError: If there is no ``LLMSampleScorer``.
    """
    from llmhd_pl.callbacks.llm_sample_scorer import LLMSampleScorer  # which imports VariancePruning, who asks

    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    judging = next((other for other in callbacks if isinstance(other, LLMSampleScorer)), None)
    if judging is None:
        raise RuntimeError(
            f"{type(callback).__name__} with max_drop_rate='auto' needs a judge: add LLMSampleScorer(scorer) after it, "
            "or give the rate as a number."
        )
    judgements = judging.judgements
    liked = np.ones(len(recorder.users), dtype=bool) if recorder.labels is None else recorder.labels.numpy() == 1
    users, items = recorder.users.numpy()[liked], recorder.items.numpy()[liked]
    found = audit(judgements.scorer, judgements.texts, users, items, "The training data")
    share = found.share
    if not found.can_tell:
        warnings.warn(
            f"The drop rate is 0, so nothing is dropped: {found.advice[0]} Give the drop rate as a number to drop all "
            "the same.",
            stacklevel=2,
        )
        return 0.0
    number = share.share * found.judgeable if right is None else found.weights[suspicious(found, right)].sum()
    rate = float(number / len(users))
    rank_zero_info(
        f"The audit sets the drop rate to {rate:.3f}: {share.share:.1%} ({share.low:.1%} to {share.high:.1%}) of "
        f"{share.size:,} judged interactions look like chance, and {found.judgeable:,} of {len(users):,} can be judged."
    )
    return rate
