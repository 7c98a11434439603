"""What the language model costs: tokens used so far, a hard budget, and an estimate before anything is asked."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from rich.table import Table

from llmhd_pl.llm.prompts import MAX_WORDS, T_FN, T_FP, T_SCORE, T_SUM, Prompts, approximate_tokens

# Shares of the noise set's size, as LightGCN showed them on Amazon-Books (benchmarks/llm_calls.py, docs/llm.md): what
# is new in it from one epoch to the next while the negatives stay, and the observed items that become confident.
_NEW_SUSPECTS = 0.10
_NEW_FALSE_POSITIVES = 0.15

_WORDS = ("word " * MAX_WORDS).strip()  # stands for a summary or a profile of full length


@dataclass
class Count:
    """What one template has cost.

    Attributes:
        calls: prompts that the model was given.
        cache_hits: prompts whose answer was in the cache.
        prompt_tokens: tokens of the prompts in ``calls``, whole ones: a prefix computed once counts in each.
        answer_tokens: tokens that the model generated.
        unanswered: prompts without a valid answer, and prompts not asked because the budget was used up.
    """

    calls: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    unanswered: int = 0


_COLUMNS = tuple(field.name for field in fields(Count))


class Usage:
    """Calls and tokens, per template."""

    def __init__(self) -> None:
        self.templates: dict[str, Count] = {}

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers, over all templates."""
        return sum(count.prompt_tokens + count.answer_tokens for count in self.templates.values())

    @property
    def calls(self) -> int:
        """Prompts that were asked, over all templates."""
        return sum(count.calls for count in self.templates.values())

    def add(
        self,
        template: str,
        calls: int = 0,
        cache_hits: int = 0,
        prompt_tokens: int = 0,
        answer_tokens: int = 0,
        unanswered: int = 0,
    ) -> None:
        """Add to the counts of a template; the arguments are those of ``Count``.

        Args:
            template: its name, such as ``T_score``.
            calls: see ``Count``, as for all that follow.
            cache_hits: answers from the cache.
            prompt_tokens: tokens given.
            answer_tokens: tokens generated.
            unanswered: prompts without an answer.
        """
        count = self.templates.setdefault(template, Count())
        for name, number in zip(_COLUMNS, (calls, cache_hits, prompt_tokens, answer_tokens, unanswered), strict=True):
            setattr(count, name, getattr(count, name) + number)

    def state_dict(self) -> dict[str, dict[str, int]]:
        """The counts as plain Python, for a checkpoint."""
        return {template: asdict(count) for template, count in self.templates.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Replace the counts by those of ``state_dict``.

        Args:
            state: what ``state_dict`` returned.
        """
        self.templates = {template: Count(**count) for template, count in state.items()}

    def table(self, title: str = "Language model") -> Table:
        """The counts as a table for the terminal: a row per template, and their sum.

        Args:
            title: stands above the table.
        """
        table = Table(title=title)
        table.add_column("template")
        for name in _COLUMNS:
            table.add_column(name.replace("_", " "), justify="right")
        rows = {template: asdict(count) for template, count in self.templates.items()}
        total = {name: sum(row[name] for row in rows.values()) for name in _COLUMNS}
        for template, row in rows.items():
            table.add_row(template, *(f"{row[name]:,}" for name in _COLUMNS))
        table.add_section()
        table.add_row("all", *(f"{total[name]:,}" for name in _COLUMNS))
        return table


class Budget:
    """Stops asking before a number of tokens is exceeded.

    Ask ``admits`` before everything that is asked, and add what it cost to the usage after it. The first thing that
    does not fit ends the asking for the rest of the run, so that it does not go on with whatever is small enough.

    Args:
        usage: what has been used; a run that is resumed goes on with what it had used.
        max_tokens: prompts and answers, whole prompts also where a prefix is computed once; None is no limit.

    Raises:
        ValueError: a negative limit.
    """

    def __init__(self, usage: Usage, max_tokens: int | None = None) -> None:
        if max_tokens is not None and max_tokens < 0:
            raise ValueError(f"max_tokens is {max_tokens}; it must be at least 0, or None for no limit.")
        self.usage, self.max_tokens = usage, max_tokens
        self.exhausted = False

    def admits(self, template: str, prompts: int, tokens: int) -> bool:
        """Whether some prompts may be asked. If not, they are counted as unanswered: do not ask them.

        Args:
            template: the template's name.
            prompts: how many they are.
            tokens: the most that they can cost, with answers at full length, and what was admitted but is not yet used.
        """
        if self.max_tokens is None:
            return True
        if not self.exhausted and self.usage.tokens + tokens > self.max_tokens:
            self.exhausted = True
            warnings.warn(
                f"The token budget is used up: {self.usage.tokens:,} of max_tokens={self.max_tokens:,}, and what is "
                f"asked next needs up to {tokens:,}. From here on the language model is not asked; what it would have "
                "decided stays with the loss. Resume with a higher max_tokens to go on.",
                stacklevel=2,
            )
        if self.exhausted:
            self.usage.add(template, unanswered=prompts)
        return not self.exhausted


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
    negative_lifetime: int = 5,
    negatives: bool = True,
    everything: bool = False,
    score_answer_tokens: int = 1,
    max_history_tokens: int | None = None,
    count_tokens: Callable[[str], int] = approximate_tokens,
) -> Usage:
    """Estimate what a run will ask, before anything is asked. A cache that is already filled makes it cheaper.

    T_sum is exact up to the length of its answers. For the rest (PAPER.md, sections 1 to 4) only the number of
    suspicious samples is known beforehand, not how often they are the same ones, which the cache answers. Assumed:

    * New negatives make a new noise set; until they are redrawn, a tenth of it changes per epoch. The observed items of
      a new noise set have been asked about with the probability of any observed item.
    * The two variance lists are independent: 1 - (1 - eps_v)^2 of the noise set are candidates. Negatives that are
      drawn anew in every epoch have no variance: then eps_v are.
    * Of as many observed items as the noise set has, 15 % become confident false positives per epoch; as many drawn
      items as it has become confident false negatives once in their life, if they live for ``eps_gamma`` epochs.
    * Suspicious samples are spread over the users at random. When a preference is revised, the user's candidates are
      asked about again.
    * Summaries and profiles have their full length.

    Args:
        prompts: the prompts.
        profiles: the text of every item.
        histories: the items of every user in train; users without any are not asked about.
        epochs: epochs that the run will take.
        batch_size: samples of a step.
        eps_l_max: share of the noise set after the ramp, above 0, at most 1.
        alpha: length of the ramp, in steps.
        eps_v: share of each of the two variance lists that become candidates, 0 to 1.
        eps_gamma: epochs after which a flagged item is confident; None where preferences are never revised.
        negative_lifetime: epochs for which a negative stays with its sample.
        negatives: whether the drawn item of a candidate is asked about too, as the paper's rule needs it.
        everything: whether all observed items are asked about, and not the candidates.
        score_answer_tokens: 1 for scoring by probabilities; about 8 for generated ``<s>N</s>``.
        max_history_tokens: budget of ``sample_history``; None is no limit.
        count_tokens: tokens of a text; give the model's tokenizer for figures that can be relied on.

    Returns:
        Calls and tokens per template, whole prompts also where a prefix is computed once.

    Raises:
        ValueError: no history at all.
    """
    sizes = [len(history) for history in histories if len(history)]
    if not sizes:
        raise ValueError("There is no user with a history, so there is nothing to ask.")
    users, samples = len(sizes), sum(sizes)
    lengths = [count_tokens(f"10. {profile}\n") for profile in profiles]
    history_tokens = [sum(lengths[item] for item in history) for history in histories if len(history)]
    if max_history_tokens is not None:
        history_tokens = [min(tokens, max_history_tokens) for tokens in history_tokens]
    # An item of a suspicious sample: the observed ones have the histories' mean, the drawn ones the catalog's.
    observed = sum(lengths[item] for history in histories for item in history) / samples
    drawn = sum(lengths) / len(lengths)
    # Of each prompt, what is not item, and of the answer.
    line = count_tokens("10. x\n")
    sum_fixed = count_tokens(prompts.summarize(["x"])) - line
    score_fixed = count_tokens(prompts.score_prefix(_WORDS) + prompts.score_suffix("x")) - line
    revise_fixed = count_tokens(prompts.revise(_WORDS, ["x"], liked=False)) - line
    written = count_tokens(_WORDS)

    usage = Usage()
    usage.add(T_SUM, users, 0, users * sum_fixed + sum(history_tokens), users * written)
    observed_pairs = drawn_pairs = 0.0  # asked about with T_score
    asked = 0.0  # samples whose observed item was asked about under the user's present preference
    revisions = {T_FP: [0.0, 0.0], T_FN: [0.0, 0.0]}  # calls, items
    steps, before, revised = -(-samples // batch_size), 0.0, 0.0
    for epoch in range(1, epochs + 1):
        noise = samples * eps_l_max * min(epoch * steps / alpha, 1)
        candidates = noise * (eps_v if negative_lifetime == 1 else 1 - (1 - eps_v) ** 2)
        age = (epoch - 1) % negative_lifetime + 1  # of the negatives
        fresh = 1 if age == 1 else 1 - (1 - _NEW_SUSPECTS) * before / noise
        if negatives:
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
                T_FN: noise if age == eps_gamma else 0.0,
            }
            for template, items in confident.items():
                hit = 1 - (1 - 1 / users) ** items  # probability of a user to have one of them
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
