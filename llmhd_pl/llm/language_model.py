"""LanguageModelScorer: what all language models share: prompts, cache, budget, and the reading of answers."""

import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from llmhd_pl.llm.accounting import Budget, Usage
from llmhd_pl.llm.asking import PaidAnswers, Rating, Reply
from llmhd_pl.llm.cache import AnswerCache
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
WRITTEN_SCORE_TOKENS = 16
"""The most tokens of a score that the model writes, ``<s>N</s>``, with an empty thought before it."""
_WRITTEN_TEXT_TOKENS = 256  # of the longest summary: 100 words in a language that needs 2.5 tokens for one


class LanguageModelScorer(Scorer):
    """A ``Scorer`` whose preferences are texts, which a language model writes and judges by.

    Children implement how the model is asked: ``model_fingerprint``, ``count_tokens``, ``complete`` and ``rate``. They
    may override ``overhead`` and ``on_cached_answers``.

    Args:
        prompts: The name of a bundled set of prompts, or the path of a TOML file: see ``Prompts.load``.
        scoring: "expected": the mean of 1 to 10 under the model's probabilities of the ten answers; "generate": the
            model writes ``<s>N</s>``, as in the paper.
        cache: The SQLite file that keeps the answers. None keeps them in memory, for this process.
        replay: Whether to answer from the cache alone.
        max_tokens: The hard limit on prompt and answer tokens. None is no limit.
        item_tokens: The most tokens of an item's profile.
        history_tokens: The most tokens of a history that a preference is summarised from; longer histories are
            sampled.
        seed: The seed of that sampling.

    Raises:
        ValueError: If ``replay`` is set without a ``cache``, or ``scoring`` is unknown.
    """

    chunk = 32
    """The number of prompts, or of users, that are asked about together."""
    rated_tokens = 1
    """The most tokens that the model writes for one rating."""
    usage: Usage
    budget: Budget

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
        """Compute expected scores.

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
        parts = self.model_fingerprint | {"prompts": self.prompts.hash, "scoring": self.scoring}
        return json.dumps(parts, sort_keys=True)

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Write the profiles of the items. A language model learns nothing from the training pairs.

        Args:
            items: The text fields of every item.
            pairs: The training interactions, int64 [n, 2]; not used.
        """
        self._profiles = [item_profile(fields, self.item_tokens, self.count_tokens) for fields in items]

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Ask for the preference of every user (T_sum).

        Args:
            histories: The items of each user; items without text are left out.

        Returns:
            The preference of each user; users without an answer, or without any item with text, are left out.
        """
        shown = {user: self._shown(user, items) for user, items in histories.items()}
        prompts = {user: self.prompts.summarize(profiles) for user, profiles in shown.items() if profiles}
        return self._write(T_SUM, prompts, parse_summary)

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        """Ask for new preferences: without what disliked items show (T_FP), then with what liked items show (T_FN).

        Args:
            preferences: The current preference of each user.
            disliked: For each user, items that they turned out not to be interested in.
            liked: For each user, items that they turned out to be interested in.

        Returns:
            The new preferences. Users without a preference or without an answer are left out. If both questions were
            asked about a user and only one was answered, the new preference is what that one changed.
        """
        revised: dict[int, Preference] = {}
        for template, items_of, is_liked in ((T_FP, disliked, False), (T_FN, liked, True)):
            prompts = {}
            for user, items in items_of.items():
                preference = revised.get(user, preferences.get(user))
                if preference is not None and (profiles := self._shown(user, items)):
                    prompts[user] = self.prompts.revise(_text(preference), profiles, is_liked)
            revised |= self._write(template, prompts, parse_profile)
        return revised

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Rate items for users (T_score). Each pair is asked about once, and pairs of a user are asked about together.

        Args:
            preferences: The preference of each user.
            pairs: The pairs (user, item), int64 [n, 2].

        Returns:
            float32 [n], 1 to 10, on the device of ``pairs``; NaN where there is no answer, no preference, or no text
            about the item.
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
        """Return the expected scores by prompt."""
        found = self._known(T_SCORE, [beginning + ending for beginning, endings in groups for ending in endings])
        unknown = []
        for beginning, endings in groups:
            missing = [ending for ending in endings if self._answers.is_to_be_asked(beginning + ending, found)]
            if missing:
                unknown.append((beginning, missing))
        found |= self._answers.ask(
            T_SCORE, "pairs", unknown, self.chunk, lambda group: len(group[1]), self._rating_tokens, self._ratings
        )
        return {prompt: float(answer) for prompt, answer in found.items()}

    def _ratings(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Reply]:
        for rating in self.rate(groups):
            beginning, endings = groups[rating.group]
            score = rating.score if isinstance(rating.score, int | None) else float(rating.score)  # of NumPy, too
            answer = repr(score) if score is not None and 1 <= score <= 10 else None  # NaN is not
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

    def _write(
        self, template: str, prompts: Mapping[int, str], parse: Callable[[str], str | None]
    ) -> dict[int, Preference]:
        """Return the text that the model writes for each user."""
        asked = list(prompts.values())
        answers = self._ask(template, asked, lambda answer: parse(answer) is not None, _WRITTEN_TEXT_TOKENS)
        texts = {user: parse(answers[prompt]) for user, prompt in prompts.items() if prompt in answers}
        return {user: text for user, text in texts.items() if text is not None}

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

    def _all_profiles(self) -> list[str]:
        if self._profiles is None:
            raise RuntimeError("The scorer knows no items yet. Call prepare(items, pairs) first.")
        return self._profiles

    def _shown(self, user: int, items: Iterable[int]) -> list[str]:
        """Return the profiles that the model is shown: of items with text, and no more than fit."""
        profiles = self._all_profiles()
        described = [profiles[item] for item in items if profiles[item] != NO_TEXT]
        return sample_history(described, self.history_tokens, self.seed, user, self.count_tokens) if described else []


def _text(preference: Preference) -> str:
    if not isinstance(preference, str):
        raise TypeError("A preference is a list of items: another scorer made it. Call summarize() again.")
    return preference
