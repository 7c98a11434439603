"""LanguageModelScorer: the four questions to a language model, and how its answers become preferences and scores."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from llmhd_pl.llm import likelihood
from llmhd_pl.llm.asked_model import AskedModel, Scoring
from llmhd_pl.llm.cache import MissingAnswersError
from llmhd_pl.llm.calibration import Curve, draw_calibration_set, fit_curve, scores_on
from llmhd_pl.llm.item_lists import as_lists, items_of, revised_lists
from llmhd_pl.llm.prompts import (
    NO_TEXT,
    T_FN,
    T_FP,
    T_SUM,
    item_profile,
    parse_profile,
    parse_summary,
    sample_history,
)
from llmhd_pl.llm.scorer import Preference

WRITTEN_TEXT_TOKENS = 256
"""The most tokens of a summary: 100 words, in a language that needs 2.5 tokens for one."""


class LanguageModelScorer(AskedModel):
    """A ``Scorer`` whose preferences are texts, which a language model writes and judges by.

    Children implement how the model is asked: ``model_fingerprint``, ``count_tokens``, ``complete`` and ``rate``. They
    may override ``overhead`` and ``on_cached_answers``.

    Args:
        prompts: The name of a bundled set of prompts, or the path of a TOML file: see ``Prompts.load``.
        scoring: "expected": the mean of 1 to 10 under the model's probabilities of the ten answers; "generate": the
            model writes ``<s>N</s>``, as in the paper; "likelihood": how much likelier the texts of the user's other
            items make the item's text, in nats, for models that follow no instructions. A preference is then a list
            of items, and nothing is written.
        cache: The SQLite file that keeps the answers. None keeps them in memory, for this process.
        replay: Whether to answer from the cache alone.
        max_tokens: The limit on prompt and answer tokens of this process. None is no limit.
        item_tokens: The most tokens of an item's profile.
        history_tokens: The most tokens of a history that a preference is summarised from; longer histories are
            sampled.
        seed: The seed of that sampling, and of the pairs that scores are calibrated on.
        calibrate: Whether a score is ``1 + 9 p``, where p is the probability that the pair was observed, given what the
            model says of it: a logistic curve, fitted on 2 observed and 2 random pairs each of up to 100 users, which
            the first ``score`` asks about. False takes the scores as the model gives them, as the paper does.

    Raises:
        ValueError: If ``replay`` is set without a ``cache``, ``scoring`` is unknown, or ``scoring`` is "likelihood"
            without ``calibrate``.
    """

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
        calibrate: bool = True,
    ) -> None:
        super().__init__(prompts, scoring, cache, replay, max_tokens)
        if scoring == "likelihood" and not calibrate:
            raise ValueError(
                "scoring='likelihood' compares probabilities of texts, which have no scale of 1 to 10 until they are "
                "calibrated: set calibrate to true."
            )
        self.item_tokens, self.history_tokens, self.seed = item_tokens, history_tokens, seed
        self.calibrate = calibrate
        self._profiles: list[str] | None = None
        self._count_tokens_once = lru_cache(maxsize=2**16)(self.count_tokens)  # of the lines of a list

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Write the profiles of the items, and draw the pairs that scores will be calibrated on. Nothing is asked.

        Args:
            items: The text fields of every item.
            pairs: The training interactions, int64 [n, 2].
        """
        self._profiles = [item_profile(fields, self.item_tokens, self.count_tokens) for fields in items]
        has_text = [profile != NO_TEXT for profile in self._profiles]
        self._calibration_set = draw_calibration_set(pairs, has_text, self.seed)
        self._curve: Curve | None = None
        self._warned = False  # that there is no curve

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Ask for the preference of every user (T_sum).

        Args:
            histories: The items of each user; items without text are left out.

        Returns:
            The preference of each user; users without an answer, or without any item with text, are left out.
        """
        if self.scoring == "likelihood":
            return as_lists(histories)
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
        if self.scoring == "likelihood":
            return revised_lists(preferences, disliked, liked)
        revised: dict[int, Preference] = {}
        for template, of_user, is_liked in ((T_FP, disliked, False), (T_FN, liked, True)):
            prompts = {}
            for user, items in of_user.items():
                preference = revised.get(user, preferences.get(user))
                if preference is not None and (profiles := self._shown(user, items)):
                    prompts[user] = self.prompts.revise(_text(preference), profiles, is_liked)
            revised |= self._write(template, prompts, parse_profile)
        return revised

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Rate items for users (T_score). Each pair is asked about once, and pairs of a user are asked about together.

        With ``calibrate``, the first call rates the calibration set, too.

        Args:
            preferences: The preference of each user.
            pairs: The pairs (user, item), int64 [n, 2].

        Returns:
            float32 [n], 1 to 10, on the device of ``pairs``; NaN where there is no answer, no preference, or no text
            about the item, and everywhere as long as the calibration lacks answers.
        """
        if not self.calibrate:
            return self._raw_scores(preferences, pairs)
        curve = self._calibrated()
        if curve is None:
            return torch.full((len(pairs),), torch.nan, device=pairs.device)
        raw = self._raw_scores(preferences, pairs)
        return torch.from_numpy(scores_on(curve, raw.cpu())).float().to(pairs.device)

    def _calibrated(self) -> Curve | None:
        """Return the curve; None, after a warning, as long as too few answers have come to fit it.

        What came is kept. What did not is asked again at the next call, unless the budget forbids it.
        """
        self._all_profiles()  # or an error
        if self._curve is not None or (self._warned and self.budget.exhausted):
            return self._curve
        self.fault = ""  # what happens from now on explains what is missing
        histories, pairs, observed = self._calibration_set
        raw, before = self._ask_to_calibrate(histories, pairs), 0
        # What failed for a moment is asked again at once, so that the curve does not depend on it.
        while before < (came := int((~raw.isnan()).sum())) < len(pairs) and not self.budget.exhausted:
            raw, before = self._ask_to_calibrate(histories, pairs), came
        groups = (raw[observed], raw[~observed])
        found, random = (int((~group.isnan()).sum()) for group in groups)
        spent = self.budget.exhausted and came < len(pairs)
        if not spent and 2 * found >= max(4, len(groups[0])) and 2 * random >= max(4, len(groups[1])):
            self._curve = fit_curve(raw, observed, f"{type(self).__name__}: what the model says of the items")
            return self._curve
        why = self.fault or "the rest has no valid answer"
        if spent:
            why = "the token budget is used up; raise max_tokens"
        elif min(map(len, groups)) < 2:
            why = "there are too few interactions with text"
        told = f"{found} of {len(groups[0])} observed and {random} of {len(groups[1])} random pairs have a score: {why}"
        self.fault = f"its scores are not calibrated: only {told}"
        if not self._warned:
            self._warned = True
            raw_scores = " calibrate: false takes the scores as the model gives them."
            warnings.warn(
                f"{type(self).__name__}: scores cannot be calibrated, because only {told}. Until that has changed, no "
                f"pair gets a score, and the loss alone decides.{'' if self.scoring == 'likelihood' else raw_scores}",
                stacklevel=3,
            )
        return None

    def _ask_to_calibrate(self, histories: Mapping[int, Sequence[int]], pairs: Tensor) -> Tensor:
        try:
            return self._raw_scores(self.summarize(histories), pairs)
        except MissingAnswersError as error:
            if self.scoring != "likelihood":
                error.add_note("They calibrate the scores. A cache made without that needs calibrate: false.")
            raise

    def _raw_scores(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Return the scores as the model gives them."""
        if self.scoring == "likelihood":
            return self._information(preferences, pairs)
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

    def _information(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Return how much likelier the user's other items make the text of each item, in nats."""
        profiles = self._all_profiles()
        unique, place = torch.unique(pairs.cpu(), dim=0, return_inverse=True)
        alone = likelihood.beginning([])
        prompts: list[tuple[str, str] | None] = []
        groups: dict[str, dict[str, None]] = {}  # the endings that follow each beginning
        for user, item in unique.tolist():
            shown: list[str] = []
            if profiles[item] != NO_TEXT:
                listed = items_of(preferences, user)
                shown = likelihood.others(
                    profiles, listed, item, self.history_tokens, self.seed, user, self._count_tokens_once
                )
            prompt = (likelihood.beginning(shown), likelihood.ending(profiles[item])) if shown else None
            prompts.append(prompt)
            if prompt is not None:
                groups.setdefault(prompt[0], {})[prompt[1]] = None
        asked: list[tuple[str, list[str]]] = []
        by_itself: set[str] = set()
        for before, endings in groups.items():  # an item by itself beside its first pair: the budget may end in between
            asked += [(alone, [end]) for end in endings if end not in by_itself]
            by_itself |= endings.keys()
            asked.append((before, list(endings)))
        found = self._rate(asked)
        scores = [
            torch.nan
            if prompt is None
            else found.get("".join(prompt), torch.nan) - found.get(alone + prompt[1], torch.nan)
            for prompt in prompts
        ]
        return torch.tensor(scores, dtype=torch.float32)[place].to(pairs.device)

    def _write(
        self, template: str, prompts: Mapping[int, str], parse: Callable[[str], str | None]
    ) -> dict[int, Preference]:
        """Return the text that the model writes for each user."""
        asked = list(prompts.values())
        answers = self._ask(template, asked, lambda answer: parse(answer) is not None, WRITTEN_TEXT_TOKENS)
        texts = {user: parse(answers[prompt]) for user, prompt in prompts.items() if prompt in answers}
        return {user: text for user, text in texts.items() if text is not None}

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
