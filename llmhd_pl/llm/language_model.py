"""What all language models share: rendering, cache, budget, parsing. Backends only rate and write."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from llmhd_pl.llm.accounting import Budget, Usage
from llmhd_pl.llm.cache import Answer, AnswerCache
from llmhd_pl.llm.prompts import (
    NO_TEXT,
    T_FN,
    T_FP,
    T_SCORE,
    T_SUM,
    Prompts,
    item_profile,
    parse_profile,
    parse_score,
    parse_summary,
    sample_history,
)
from llmhd_pl.llm.scorer import Preference, Scorer

Scoring = Literal["expected", "generate"]
_WRITTEN = 256  # tokens of the longest summary: 100 words in a language that needs 2.5 tokens for one
_RATED = 12  # tokens of the longest generated score
_WRITTEN_TOGETHER = 32  # answers in one transaction of the cache: about a millisecond
Asked = TypeVar("Asked")


class Rating(NamedTuple):
    """An expected score, and what it cost."""

    group: int
    """Which group it belongs to."""
    ending: int
    """Which of the group's endings it is about."""
    score: float | None
    """1 to 10; None: no answer."""
    prompt_tokens: int
    """Of the whole prompt."""
    answer_tokens: int
    """That the model wrote."""


class LanguageModelScorer(Scorer, ABC):
    """A ``Scorer`` whose preferences are texts that a language model writes and judges by.

    Args:
        prompts: the domain, or the path of a TOML file: see ``Prompts.load``.
        scoring: "expected": the mean of 1 to 10 under the model's probabilities of the ten answers; "generate": the
            model writes ``<s>N</s>``, as in the paper.
        cache: the SQLite file that keeps the answers; None keeps them in memory, for this process.
        replay: answer from the cache alone.
        max_tokens: hard budget of prompt and answer tokens; None is no limit.
        item_tokens: longest profile of an item.
        history_tokens: longest history that a preference is summarised from; longer ones are sampled.
        seed: seed of that sampling.

    Raises:
        ValueError: ``replay`` without ``cache``, or an unknown ``scoring``.
    """

    chunk = 32
    """Prompts, or users, that are asked about together."""
    rated_tokens = 1
    """The most tokens that the model writes for one rating."""

    def __init__(
        self,
        prompts: str = "neutral",
        scoring: Scoring = "expected",
        cache: str | None = None,
        replay: bool = False,
        max_tokens: int | None = None,
        item_tokens: int = 64,
        history_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        if scoring not in ("expected", "generate"):
            raise ValueError(f"scoring is {scoring!r}; it must be 'expected' or 'generate'.")
        if replay and cache is None:
            raise ValueError("replay answers from a cache, and there is none. Give the path of the cache.")
        self.prompts = Prompts.load(prompts)
        self.scoring: Scoring = scoring
        self.cache = None if cache is None else AnswerCache(Path(cache), replay)
        self.usage = Usage()
        self.budget = Budget(self.usage, max_tokens)
        self.item_tokens, self.history_tokens, self.seed = item_tokens, history_tokens, seed
        self._profiles: list[str] | None = None
        self.refused = ""
        """The last answer that was not of the form that was asked for."""
        self._memory: dict[bytes, str] = {}  # in the place of a cache, by the prompts' hashes

    @property
    @abstractmethod
    def model_fingerprint(self) -> dict[str, str]:
        """What decides the model's answers: its name, revision and quantisation."""

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of a text."""

    @property
    def overhead(self) -> int:
        """Tokens that a prompt has besides its text: the chat template's, and a beginning of the answer."""
        return 0

    @abstractmethod
    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        """Number of the prompt, its completion (None: no answer), prompt tokens, answer tokens; in any order."""

    @abstractmethod
    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator["Rating"]:
        """Expected scores of prompts with common beginnings, in any order.

        Args:
            groups: the common beginning, and the endings.
        """

    @property
    def fingerprint(self) -> str:
        """Model, revision, quantisation, the prompts' hash and the decoding, as JSON."""
        parts = self.model_fingerprint | {"prompts": self.prompts.hash, "scoring": self.scoring}
        return json.dumps(parts, sort_keys=True)

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Write the items' profiles; a language model learns nothing from the training pairs.

        Args:
            items: the text fields of every item.
            pairs: training interactions, int64 [n, 2]; not used.
        """
        self._profiles = [item_profile(fields, self.item_tokens, self.count_tokens) for fields in items]

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Ask for every user's preference (T_sum).

        Args:
            histories: the items of each user; those without text are left out.

        Returns:
            The preference by user; users without an answer, or without any item with text, are left out.
        """
        prompts = {}
        for user, items in histories.items():
            profiles = self._described(items)
            if profiles:
                kept = sample_history(profiles, self.history_tokens, self.seed, user, self.count_tokens)
                prompts[user] = self.prompts.summarize(kept)
        return self._write(T_SUM, prompts, parse_summary)

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        """Ask for new preferences: without what disliked items show (T_FP), then with what liked ones do (T_FN).

        Args:
            preferences: the current ones, by user.
            disliked: items that a user turned out not to be interested in.
            liked: items that a user turned out to be interested in.

        Returns:
            The new preferences; users without one before, or without an answer, are left out. Who is asked both
            questions and answered one gets what that one changes.
        """
        revised: dict[int, Preference] = {}
        for template, items_of, is_liked in ((T_FP, disliked, False), (T_FN, liked, True)):
            prompts = {}
            for user, items in items_of.items():
                profiles = self._described(items)
                preference = revised.get(user, preferences.get(user))
                if preference is not None and profiles:
                    kept = sample_history(profiles, self.history_tokens, self.seed, user, self.count_tokens)
                    prompts[user] = self.prompts.revise(_text(preference), kept, is_liked)
            revised |= self._write(template, prompts, parse_profile)
        return revised

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Rate items for users (T_score); each pair is asked once, and a user's part of the prompt computed once.

        Args:
            preferences: by user.
            pairs: (user, item), int64 [n, 2].

        Returns:
            float32 [n], 1 to 10; NaN where there is no answer, no preference or no text about the item.
        """
        profiles = self._all_profiles()
        unique, place = torch.unique(pairs.cpu(), dim=0, return_inverse=True)
        askable = [(u, i) for u, i in unique.tolist() if u in preferences and profiles[i] != NO_TEXT]
        groups = []
        for user, members in groupby(askable, key=lambda pair: pair[0]):
            endings = dict.fromkeys(self.prompts.score_suffix(profiles[item]) for _, item in members)
            groups.append((self.prompts.score_prefix(_text(preferences[user])), list(endings)))
        answers = self._rate(groups) if self.scoring == "expected" else self._generate_scores(groups)
        scores = torch.full((len(unique),), torch.nan)
        for row, (user, item) in enumerate(unique.tolist()):
            if user in preferences and profiles[item] != NO_TEXT:
                prompt = self.prompts.score_prefix(_text(preferences[user])) + self.prompts.score_suffix(profiles[item])
                scores[row] = answers.get(prompt, torch.nan)
        return scores[place].to(pairs.device)

    def _rate(self, groups: list[tuple[str, list[str]]]) -> dict[str, float]:
        prompts = [beginning + ending for beginning, endings in groups for ending in endings]
        found = {prompt: float(answer) for prompt, answer in self._known(T_SCORE, prompts).items()}
        open_groups = []
        for beginning, endings in groups:
            missing = [ending for ending in endings if beginning + ending not in found]
            if missing:
                open_groups.append((beginning, missing))
        with _progress("pairs", sum(len(endings) for _, endings in open_groups)) as advance:
            for start in range(0, len(open_groups), self.chunk):
                chunk = open_groups[start : start + self.chunk]
                admitted = self._admitted(T_SCORE, chunk, lambda group: len(group[1]), self._rating_tokens)
                answers = self._keep_what_arrives(T_SCORE, self._ratings(admitted, advance))
                found |= {prompt: float(answer) for prompt, answer in answers.items()}
                advance(sum(len(endings) for _, endings in chunk) - sum(len(endings) for _, endings in admitted))
        return found

    def _ratings(
        self, groups: Sequence[tuple[str, Sequence[str]]], advance: Callable[[int], None]
    ) -> Iterator[tuple[str, str | None, int, int]]:
        """Prompt, score as it is kept (None: no answer), prompt tokens, answer tokens."""
        for rating in self.rate(groups):
            beginning, endings = groups[rating.group]
            valid = rating.score is not None and 1 <= rating.score <= 10  # NaN is not
            yield (
                beginning + endings[rating.ending],
                repr(rating.score) if valid else None,
                rating.prompt_tokens,
                rating.answer_tokens,
            )
            advance(1)

    def _rating_tokens(self, group: tuple[str, Sequence[str]]) -> int:
        beginning, endings = group
        each = self.count_tokens(beginning) + self.overhead + self.rated_tokens
        return len(endings) * each + sum(self.count_tokens(ending) for ending in endings)

    def _generate_scores(self, groups: list[tuple[str, list[str]]]) -> dict[str, float]:
        prompts = [beginning + ending for beginning, endings in groups for ending in endings]
        answers = self._ask(T_SCORE, prompts, lambda answer: parse_score(answer) is not None, _RATED)
        scores = {prompt: parse_score(answer) for prompt, answer in answers.items()}
        return {prompt: float(score) for prompt, score in scores.items() if score is not None}

    def _write(
        self, template: str, prompts: Mapping[int, str], parse: Callable[[str], str | None]
    ) -> dict[int, Preference]:
        answers = self._ask(template, list(prompts.values()), lambda answer: parse(answer) is not None, _WRITTEN)
        texts = {user: parse(answers[prompt]) for user, prompt in prompts.items() if prompt in answers}
        return {user: text for user, text in texts.items() if text is not None}

    def _ask(
        self, template: str, prompts: Sequence[str], valid: Callable[[str], bool], max_new_tokens: int
    ) -> dict[str, str]:
        """The valid answers by prompt, from the cache or the model; what is invalid is counted and not kept."""
        prompts = list(dict.fromkeys(prompts))
        found = self._known(template, prompts)
        missing = sorted((prompt for prompt in prompts if prompt not in found), key=len, reverse=True)

        def completions(chunk: Sequence[str]) -> Iterator[tuple[str, str | None, int, int]]:
            for number, text, prompt_tokens, answer_tokens in self.complete(chunk, max_new_tokens):
                # JSON can carry half a character (a lone surrogate), which no file can hold.
                text = None if text is None else text.encode(errors="replace").decode()
                if text is not None and not valid(text):
                    self.refused, text = text, None
                yield chunk[number], text, prompt_tokens, answer_tokens
                advance(1)

        def most_tokens(prompt: str) -> int:
            return self.count_tokens(prompt) + self.overhead + max_new_tokens

        with _progress(template, len(missing)) as advance:
            for start in range(0, len(missing), self.chunk):
                chunk = missing[start : start + self.chunk]
                admitted = self._admitted(template, chunk, lambda prompt: 1, most_tokens)
                found |= self._keep_what_arrives(template, completions(admitted))
                advance(len(chunk) - len(admitted))
        return found

    def _admitted(
        self, template: str, chunk: Sequence[Asked], prompts: Callable[[Asked], int], tokens: Callable[[Asked], int]
    ) -> list[Asked]:
        """What the budget allows of a chunk; without a limit nothing is counted."""
        if self.budget.max_tokens is None:
            return list(chunk)
        admitted: list[Asked] = []
        pending = 0
        for each in chunk:
            cost = 0 if self.budget.exhausted else tokens(each)
            if self.budget.admits(template, prompts(each), pending + cost):
                admitted.append(each)
                pending += cost
        return admitted

    def _keep_what_arrives(self, template: str, answers: Iterator[tuple[str, str | None, int, int]]) -> dict[str, str]:
        """Write answers to the cache a few at a time, also when the next one is interrupted: they are paid for.

        Args:
            template: its name.
            answers: prompt, valid answer or None, prompt tokens, answer tokens.

        Returns:
            The valid answers by prompt.
        """
        found: dict[str, str] = {}
        unwritten: list[Answer] = []
        try:
            for prompt, text, prompt_tokens, answer_tokens in answers:
                self.usage.add(template, 1, 0, prompt_tokens, answer_tokens, int(text is None))
                if text is not None:
                    found[prompt] = text
                    unwritten.append(Answer(prompt, text, prompt_tokens, answer_tokens))
                if len(unwritten) == _WRITTEN_TOGETHER:
                    self._keep(template, unwritten)
                    unwritten = []
        finally:
            self._keep(template, unwritten)
        return found

    def _known(self, template: str, prompts: Sequence[str]) -> dict[str, str]:
        if self.cache is not None:
            found = self.cache.get(self.fingerprint, prompts)
        else:
            keys = {prompt: _key(prompt) for prompt in prompts}
            found = {prompt: self._memory[key] for prompt, key in keys.items() if key in self._memory}
        if found:
            self.usage.add(template, cache_hits=len(found))
        return found

    def _keep(self, template: str, answers: list[Answer]) -> None:
        if self.cache is not None and answers:
            self.cache.put(self.fingerprint, template, answers)
        elif self.cache is None:
            self._memory |= {_key(answer.prompt): answer.answer for answer in answers}

    def _all_profiles(self) -> list[str]:
        if self._profiles is None:
            raise RuntimeError("The scorer knows no items yet. Call prepare(items, pairs) first.")
        return self._profiles

    def _described(self, items: Iterable[int]) -> list[str]:
        profiles = self._all_profiles()
        return [profiles[item] for item in items if profiles[item] != NO_TEXT]


class _Speed(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The speed of the last steps, once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class _progress:  # noqa: N801 -- used like a function
    """A bar with the speed and the time left, which disappears when it is done; none where there is nothing to do."""

    def __init__(self, what: str, total: int) -> None:
        self._bar: Any = None
        if total:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed())
            self._bar = Progress(*columns, TimeRemainingColumn(), transient=True)
            self._task = self._bar.add_task(f"asking the language model: {what}", total=total)

    def __enter__(self) -> Callable[[int], None]:
        if self._bar is None:
            return lambda steps: None
        self._bar.start()
        return lambda steps: self._bar.advance(self._task, steps)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(errors="replace"), digest_size=16).digest()


def _text(preference: Preference) -> str:
    if not isinstance(preference, str):
        raise TypeError("A preference is a list of items: another scorer made it. Call summarize() again.")
    return preference
