"""What asking a judge takes, measured on a sample, and what a whole run would take."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.denoising.rules import asks_about_sampled
from llmhd_pl.judge.pairs import training_pairs
from llmhd_pl.llm.accounting import Usage
from llmhd_pl.llm.estimate import UNAUDITED, estimate
from llmhd_pl.llm.judgements import Judgements
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.llm.prompts import T_SCORE, T_SUM, Prompts, item_profile
from llmhd_pl.llm.scorer import Scorer
from llmhd_pl.llm.texts import approximate_tokens
from llmhd_pl.llm.vectors import VectorScorer
from llmhd_pl.methods import LLMHD


@dataclass
class Phase:
    """What asking questions of one kind took: for preferences, or for scores.

    Attributes:
        asked: The users or the pairs that were asked about.
        calls: The prompts that a model was given for them, and for the calibration of the scores if the scorer has
            one; None if the scorer does not count.
        cache_hits: The prompts that a cache answered.
        tokens: The tokens of the calls.
        seconds: The time without the first question, which loads a model and calibrates.
        per_second: Calls per second in that time; questions per second if the scorer does not count. None if nothing
            was asked. What follows is of the same time.
        tokens_each: Tokens per call; None if there were none.
        calls_each: Prompts per question, those from the cache included; less than one if items have no text.
    """

    asked: int
    calls: int | None
    cache_hits: int
    tokens: int
    seconds: float
    per_second: float | None
    tokens_each: float | None
    calls_each: float


@dataclass
class Cost:
    """What a whole run asks of one kind.

    Attributes:
        what: The template of the questions, such as ``T_score``, or what is judged.
        questions: Their number; of the prompts if the scorer counts them.
        tokens: Their tokens; None if the scorer does not count them.
        seconds: The time at the measured speed; None if none was measured.
    """

    what: str
    questions: int
    tokens: int | None
    seconds: float | None


def ask(scorer: Scorer, questions: list[int], put: Callable[[list[int]], object]) -> Phase:
    """Ask questions and measure it.

    Args:
        scorer: The judge, whose usage is looked at.
        questions: The questions, by their numbers.
        put: Asks some of them.
    """
    before = _usage(scorer)
    put(questions[:1])
    first = _usage(scorer)
    start = time.perf_counter()
    put(questions[1:])
    seconds = time.perf_counter() - start
    after = _usage(scorer)
    calls, hits, tokens = (now - then for now, then in zip(after, before, strict=True))
    timed, timed_hits, timed_tokens = (now - then for now, then in zip(after, first, strict=True))
    count = len(questions[1:])
    if scorer.usage is None:
        return Phase(len(questions), None, 0, 0, seconds, count / seconds if count else None, None, 1.0)
    # A budget that is used up leaves questions out that a run would ask.
    whole = count and not (scorer.budget is not None and scorer.budget.exhausted)
    return Phase(
        *(len(questions), calls, hits, tokens, seconds),
        per_second=timed / seconds if timed else None,
        tokens_each=timed_tokens / timed if timed else None,
        calls_each=(timed + timed_hits) / count if whole else 1.0,
    )


def _usage(scorer: Scorer) -> tuple[int, int, int]:
    """Calls, cache hits and tokens so far."""
    usage = scorer.usage or Usage()
    return usage.calls, sum(count.cache_hits for count in usage.templates.values()), usage.tokens


def run_cost(
    data: InteractionDataModule,
    method: LLMHD,
    judgements: Judgements,
    summaries: Phase,
    scores: Phase,
    epochs: int,
    pointwise: bool,
) -> list[Cost]:
    """Estimate what a run would ask: ``llmhd_pl.llm.estimate.estimate`` at the speed and the tokens measured.

    A judge that costs nothing is asked about every training interaction once.

    Args:
        data: The data module after ``setup``.
        method: The method, whose settings say what is asked.
        judgements: The judgements on the data, after ``prepare``.
        summaries: What preferences took.
        scores: What scores took.
        epochs: The number of epochs of the run.
        pointwise: Whether its objective is pointwise.
    """
    scorer, samples = method.scorer, len(data.train_users)
    if scorer.usage is None:
        return [Cost("every training interaction", samples, None, _free_seconds(data, judgements, summaries, scores))]
    model = scorer if isinstance(scorer, LanguageModelScorer) else None
    count_tokens = approximate_tokens if model is None else model.count_tokens
    item_tokens = 64 if model is None else model.item_tokens
    alpha = method.ramp.get("ramp_iterations")
    expected = estimate(
        Prompts.load("neutral") if model is None else model.prompts,
        [item_profile(fields, item_tokens, count_tokens) for fields in judgements.texts],
        list(judgements.histories.values()),
        epochs=epochs,
        batch_size=data.batch_size,
        eps_l_max=UNAUDITED if method.drop_rate == "auto" else method.drop_rate,
        alpha=method.ramp["ramp_epochs"] * math.ceil(samples / data.batch_size) if alpha is None else alpha,
        eps_v=method.candidate_fraction,
        eps_gamma=method.confidence_epochs,
        negative_lifetime=data.negative_lifetime,
        negatives=asks_about_sampled(method.rule, pointwise, of_interactions=True),
        pointwise=pointwise,
        everything=method.scored == "all",
        calibrate=model is not None and model.calibrate,
        audit=method.drop_rate == "auto",
        score_answer_tokens=model.rated_tokens if model is not None and model.scoring == "expected" else 8,
        max_history_tokens=None if model is None else model.history_tokens,
        count_tokens=count_tokens,
    )
    costs = []
    for template, count in expected.templates.items():
        phase = scores if template == T_SCORE else summaries
        calls = round(count.calls * phase.calls_each)
        tokens = (count.prompt_tokens + count.answer_tokens) * phase.calls_each
        if template in (T_SCORE, T_SUM) and phase.tokens_each is not None:  # revisions are not measured
            tokens = calls * phase.tokens_each
        costs.append(Cost(template, calls, round(tokens), _seconds(calls, phase)))
    return costs


def _seconds(calls: int, phase: Phase) -> float | None:
    """How long so many questions take at the speed that was measured; None if it was not."""
    return 0.0 if not calls else None if phase.per_second is None else calls / phase.per_second


def _free_seconds(data: InteractionDataModule, judgements: Judgements, summaries: Phase, scores: Phase) -> float | None:
    """The time for all training interactions: vectors take it once more, of others it is told from the sample."""
    scorer = judgements.scorer
    if isinstance(scorer, VectorScorer):
        start = time.perf_counter()
        scorer.score(scorer.summarize(judgements.histories), training_pairs(data))
        return time.perf_counter() - start
    if summaries.per_second is None or scores.per_second is None:
        return None
    return len(judgements.histories) / summaries.per_second + len(data.train_users) / scores.per_second
