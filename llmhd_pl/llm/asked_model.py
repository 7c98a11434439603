"""AskedModel: a language model that is asked prompts: who it is, what it costs, and which answers are kept."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from llmhd_pl.llm.accounting import Budget, Usage
from llmhd_pl.llm.asking import PaidAnswers, Rating, Reply
from llmhd_pl.llm.cache import AnswerCache
from llmhd_pl.llm.digest import digest
from llmhd_pl.llm.likelihood import HEADING
from llmhd_pl.llm.prompts import T_LIKELIHOOD, T_SCORE, Prompts, parse_score
from llmhd_pl.llm.scorer import Scorer

Scoring = Literal["expected", "generate", "likelihood"]
WRITTEN_SCORE_TOKENS = 16
"""The most tokens of a score that the model writes, ``<s>N</s>``, with an empty thought before it."""


class AskedModel(Scorer):
    """A language model that answers prompts. Each valid answer is paid for once, and there is a budget.

    Children implement how the model is asked: ``model_fingerprint``, ``count_tokens``, ``complete`` and ``rate``. They
    may override ``overhead`` and ``on_cached_answers``.

    Args:
        prompts: The name of a bundled set of prompts, or the path of a TOML file: see ``Prompts.load``.
        scoring: "expected", "generate" or "likelihood".
        cache: The SQLite file that keeps the answers. None keeps them in memory, for this process.
        replay: Whether to answer from the cache alone.
        max_tokens: The limit on prompt and answer tokens of this process. None is no limit.

    Raises:
        ValueError: If ``replay`` is set without a ``cache``, or ``scoring`` is unknown.
    """

    chunk = 32
    """The number of prompts, or of users, that are asked about together."""
    rated_tokens = 1
    """The most tokens that the model writes for one rating."""
    learns = False  # at most a curve that rises, which changes no order
    usage: Usage
    budget: Budget

    def __init__(
        self,
        prompts: str = "neutral",
        scoring: Scoring = "expected",
        cache: str | None = None,
        replay: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        if scoring not in get_args(Scoring):
            raise ValueError(f"scoring is {scoring!r}; it must be 'expected', 'generate' or 'likelihood'.")
        if replay and cache is None:
            raise ValueError("replay answers from a cache, and there is none. Give the path of the cache.")
        self.prompts = Prompts.load(prompts)
        self.scoring: Scoring = scoring
        self.cache = None if cache is None else AnswerCache(Path(cache), replay)
        self.usage = Usage()
        self.budget = Budget(self.usage, max_tokens)
        self._answers = PaidAnswers(lambda: self.fingerprint, self.cache, self.usage, self.budget)

    @property
    @abstractmethod
    def model_fingerprint(self) -> dict[str, str]:
        """What decides the model's answers: its name, revision and quantisation."""

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""

    @property
    def overhead(self) -> int:
        """The tokens of a prompt besides its text: those of the chat template and of a given start of the answer."""
        return 0

    @abstractmethod
    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        """Let the model complete prompts.

        Args:
            prompts: The prompts.
            max_new_tokens: The most tokens of an answer.

        Returns:
            For each prompt, in any order: its number, the completion (None if there is no answer), the tokens of the
            prompt, and the tokens of the answer.
        """

    @abstractmethod
    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        """Compute expected scores, or the log-likelihoods of the endings if this is how items are scored.

        Args:
            groups: Prompts with a common beginning: the beginning and the endings.

        Returns:
            A rating for each prompt, in any order.
        """

    def on_cached_answers(self, template: str, answers: Collection[str]) -> None:
        """React to answers that were found in the cache; does nothing here. Children may override this.

        Args:
            template: The name of the template, such as ``T_score``.
            answers: The answers, as they are kept.
        """

    @property
    def fingerprint(self) -> str:
        """Model, revision, quantisation, hash of the prompts, and decoding, as JSON: part of every cache key."""
        wording = digest(HEADING.encode()) if self.scoring == "likelihood" else self.prompts.hash
        parts = self.model_fingerprint | {"prompts": wording, "scoring": self.scoring}
        return json.dumps(parts, sort_keys=True)

    def _rate(self, groups: list[tuple[str, list[str]]]) -> dict[str, float]:
        """Return the ratings by prompt."""
        template = T_LIKELIHOOD if self.scoring == "likelihood" else T_SCORE
        found = self._known(template, [beginning + ending for beginning, endings in groups for ending in endings])
        unknown, asked = list[tuple[str, list[str]]](), set[str]()
        for beginning, endings in groups:
            missing = [
                ending
                for ending in endings
                if beginning + ending not in asked and self._answers.is_to_be_asked(beginning + ending, found)
            ]
            asked.update(beginning + ending for ending in missing)  # another user may have the same preference
            if missing:
                unknown.append((beginning, missing))
        found |= self._answers.ask(
            template, "pairs", unknown, self.chunk, lambda group: len(group[1]), self._rating_tokens, self._ratings
        )
        return {prompt: float(answer) for prompt, answer in found.items()}

    def _ratings(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Reply]:
        for rating in self.rate(groups):
            beginning, endings = groups[rating.group]
            score = rating.score if isinstance(rating.score, int | None) else float(rating.score)  # of NumPy, too
            lowest, highest = (-math.inf, 0) if self.scoring == "likelihood" else (1, 10)
            valid = score is not None and math.isfinite(score) and lowest <= score <= highest
            answer = repr(score) if valid else None
            yield Reply(beginning + endings[rating.ending], answer, rating.prompt_tokens, rating.answer_tokens)

    def _rating_tokens(self, group: tuple[str, Sequence[str]]) -> int:
        beginning, endings = group
        each = self.count_tokens(beginning) + self.overhead + self.rated_tokens
        return len(endings) * each + sum(self.count_tokens(ending) for ending in endings)

    def _generate_scores(self, groups: list[tuple[str, list[str]]]) -> dict[str, float]:
        """Return the written scores by prompt."""
        prompts = [beginning + ending for beginning, endings in groups for ending in endings]
        answers = self._ask(T_SCORE, prompts, lambda answer: parse_score(answer) is not None, WRITTEN_SCORE_TOKENS)
        scores = {prompt: parse_score(answer) for prompt, answer in answers.items()}
        return {prompt: float(score) for prompt, score in scores.items() if score is not None}

    def _ask(
        self, template: str, prompts: Sequence[str], valid: Callable[[str], bool], max_new_tokens: int
    ) -> dict[str, str]:
        """Return the valid answers by prompt, from the cache or the model. Invalid ones are counted but not kept."""
        found = self._known(template, prompts := list(dict.fromkeys(prompts)))
        missing = [prompt for prompt in prompts if self._answers.is_to_be_asked(prompt, found)]
        missing.sort(key=len, reverse=True)

        def completions(chunk: Sequence[str]) -> Iterator[Reply]:
            for number, text, prompt_tokens, answer_tokens in self.complete(chunk, max_new_tokens):
                # JSON can contain half a character (a lone surrogate), which no file can hold.
                text = None if text is None else text.encode(errors="replace").decode()
                if text is not None and not valid(text):
                    self.refused, text = text, None
                yield Reply(chunk[number], text, prompt_tokens, answer_tokens)

        def most_tokens(prompt: str) -> int:
            return self.count_tokens(prompt) + self.overhead + max_new_tokens

        return found | self._answers.ask(template, template, missing, self.chunk, lambda _: 1, most_tokens, completions)

    def _known(self, template: str, prompts: Sequence[str]) -> dict[str, str]:
        found = self._answers.known(template, prompts)
        self.on_cached_answers(template, found.values())
        return found
