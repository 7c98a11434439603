"""What a run will ask a language model, estimated before anything is asked."""

from collections.abc import Callable, Sequence

from llmhd_pl.llm.accounting import Usage
from llmhd_pl.llm.prompts import MAX_WORDS, T_FN, T_FP, T_SCORE, T_SUM, Prompts
from llmhd_pl.llm.texts import approximate_tokens
from llmhd_pl.scale import AUDIT_INTERACTIONS, AUDIT_REFERENCES, CALIBRATION_PAIRS, CALIBRATION_USERS

# Relative to the size of the noise set, as counted with LightGCN on Amazon-Books (benchmarks/llm_calls.py):
# the samples that are new in it from one epoch to the next while the negatives stay the same, and the observed items
# that become confident false positives in an epoch.
_NEW_SUSPECTS = 0.10
_NEW_FALSE_POSITIVES = 0.15

_WORDS = ("word " * MAX_WORDS).strip()  # in place of a summary or a profile of full length

UNAUDITED = 0.2
"""The drop rate that a run is taken to have if an audit, which comes later, sets it."""


def estimate(
    prompts: Prompts,
    profiles: Sequence[str],
    histories: Sequence[Sequence[int]],
    *,
    epochs: int,
    batch_size: int = 1024,
    eps_l_max: float = 0.05,
    alpha: int = 3000,
    eps_v: float = 0.5,
    eps_gamma: int | None = 3,
    negative_lifetime: int | None = 5,
    negatives: bool = True,
    pointwise: bool = False,
    everything: bool = False,
    calibrate: bool = False,
    audit: bool = False,
    score_answer_tokens: int = 1,
    max_history_tokens: int | None = None,
    count_tokens: Callable[[str], int] = approximate_tokens,
) -> Usage:
    """Estimate what a run will ask, before anything is asked. A cache that already has answers makes it cheaper.

    T_sum is exact up to the length of its answers. For the rest (docs/paper.md, sections 1 to 4), only the number of
    suspicious samples is known beforehand, but not how often they are the same ones, which the cache answers. The
    estimate assumes:

    * New negatives make a new noise set. Until they are redrawn, or if there are none, a tenth of it changes per epoch.
      An observed item of a new noise set has been asked about with the same probability as any other observed item.
    * The two variance lists are independent, so 1 - (1 - eps_v)^2 of the noise set are candidates. If negatives are
      redrawn in every epoch, so that they have no variance, or if there are none, the share is eps_v. So it is with
      pointwise losses, which are of one item each; twice that if sampled items may be dropped, but are always new.
    * Per epoch, as many observed items become confident false positives as 15 % of the noise set. Once in the life of
      the negatives, as many of them become confident false negatives as the noise set has samples, provided that they
      live for ``eps_gamma`` epochs.
    * Suspicious samples are spread over the users at random. When a preference is revised, the user's candidates are
      asked about again.
    * Summaries and profiles have their full length.
    * The calibration asks about 2 observed and 2 drawn pairs of each of up to 100 users, none of which the run asks
      about anyway. Their summaries are among those of all users.
    * An audit asks about one item of each of up to 500 users and, in their place, of 4 others of them. The user's
      summary is written anew, without the item.

    Args:
        prompts: The prompts.
        profiles: The profile of every item.
        histories: The training items of every user; users without interactions are not asked about.
        epochs: The number of epochs of the run.
        batch_size: The samples of a step.
        eps_l_max: The share of the noise set after the ramp, above 0 and at most 1.
        alpha: The length of the ramp in steps.
        eps_v: The share of each of the two variance lists that become candidates, 0 to 1.
        eps_gamma: The number of epochs in which an item must be flagged to be confident. None means that preferences
            are never revised.
        negative_lifetime: The number of epochs that a negative stays with its sample; None if there are no negatives.
        negatives: Whether sampled items are asked about too: see ``llmhd_pl.denoising.rules.asks_about_sampled``.
        pointwise: Whether observed and sampled items have losses of their own, and are candidates on their own.
        everything: Whether all observed items are asked about instead of the candidates.
        calibrate: Whether scores are calibrated.
        audit: Whether an audit comes first, which sets the drop rate.
        score_answer_tokens: The tokens of a score: 1 for scoring by probabilities, about 8 for a written ``<s>N</s>``.
        max_history_tokens: The most tokens of a history, as for ``sample_history``. None is no limit.
        count_tokens: A function that counts the tokens of a text. Use the model's tokenizer for reliable figures.

    Returns:
        Calls and tokens per template. Prompts count in full, even if their prefix is computed once.

    Raises:
        ValueError: If no user has a history.
    """
    sizes = [len(history) for history in histories if len(history)]
    if not sizes:
        raise ValueError("There is no user with a history, so there is nothing to ask.")
    users, samples = len(sizes), sum(sizes)
    lengths = [count_tokens(f"10. {profile}\n") for profile in profiles]
    history_tokens = [sum(lengths[item] for item in history) for history in histories if len(history)]
    if max_history_tokens is not None:
        history_tokens = [min(tokens, max_history_tokens) for tokens in history_tokens]
    # The mean length of the items in suspicious samples: of observed items over the histories, of drawn ones over the
    # catalog.
    observed = sum(lengths[item] for history in histories for item in history) / samples
    drawn = sum(lengths) / len(lengths)
    # The tokens of each prompt without its items, and of a written answer.
    line = count_tokens("10. x\n")
    sum_fixed = count_tokens(prompts.summarize(["x"])) - line
    score_fixed = count_tokens(prompts.score_prefix(_WORDS) + prompts.score_suffix("x")) - line
    revise_fixed = count_tokens(prompts.revise(_WORDS, ["x"], liked=False)) - line
    written = count_tokens(_WORDS)

    usage = Usage()
    usage.add(T_SUM, users, 0, users * sum_fixed + sum(history_tokens), users * written)
    observed_pairs = drawn_pairs = 0.0  # that T_score asks about
    if calibrate:
        observed_pairs = drawn_pairs = float(min(users, CALIBRATION_USERS) * CALIBRATION_PAIRS)
    if audit:
        audited = min(sum(size > 1 for size in sizes), AUDIT_INTERACTIONS)
        observed_pairs += audited * (1 + AUDIT_REFERENCES)
        shortened = sum(history_tokens) / users - observed
        usage.add(T_SUM, audited, 0, round(audited * (sum_fixed + shortened)), audited * written)
    asked = 0.0  # samples whose observed item was asked about with the user's current preference
    revisions = {T_FP: [0.0, 0.0], T_FN: [0.0, 0.0]}  # calls, items
    steps, before, revised = -(-samples // batch_size), 0.0, 0.0
    lasting = negative_lifetime not in (1, None)  # whether the predictions for sampled items have a variance
    share = eps_v if pointwise or not lasting else 1 - (1 - eps_v) ** 2  # of the noise set, that are candidates
    of_both = negatives and (lasting or not pointwise)
    if pointwise and negatives and not lasting:
        share *= 2  # sampled items that are new cannot be dropped: observed ones fill the noise set in their place
    for epoch in range(1, epochs + 1):
        noise = samples * eps_l_max * min(epoch * steps / alpha, 1)
        candidates = noise * share
        age = (epoch - 1) % (negative_lifetime or epochs) + 1  # of the negatives
        fresh = 1 if age == 1 or not noise else 1 - (1 - _NEW_SUSPECTS) * before / noise
        if of_both:
            drawn_pairs += candidates * (fresh + (1 - fresh) * revised)
        asked *= 1 - revised
        of_candidates = candidates * (fresh * (1 - asked / samples) + (1 - fresh) * revised)
        new = samples - asked if everything else of_candidates
        asked += new
        observed_pairs += new
        before, revised = noise, 0.0
        if eps_gamma is not None and epoch >= eps_gamma:
            confident = {
                T_FP: noise * _NEW_FALSE_POSITIVES * (1 - revisions[T_FP][1] / samples),
                T_FN: noise if age == eps_gamma and negative_lifetime is not None else 0.0,
            }
            for template, items in confident.items():
                hit = 1 - (1 - 1 / users) ** items  # the probability that a user has one of them
                revised = 1 - (1 - revised) * (1 - hit)
                revisions[template][0] += users * hit
                revisions[template][1] += items
    calls = round(observed_pairs + drawn_pairs)
    answers = calls * score_answer_tokens
    usage.add(T_SCORE, calls, 0, round(calls * score_fixed + observed_pairs * observed + drawn_pairs * drawn), answers)
    if eps_gamma is not None:
        for template, (times, items) in revisions.items():
            length = observed if template == T_FP else drawn
            usage.add(template, round(times), 0, round(times * revise_fixed + items * length), round(times * written))
    return usage
