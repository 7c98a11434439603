"""Judgements: what a scorer has said about the training interactions, and what it was asked. It logs nothing."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmhd_pl.files import json_text, whole_file
from llmhd_pl.items_by_user import ItemsByUser, of_users
from llmhd_pl.llm.accounting import Usage
from llmhd_pl.llm.consistency import SimilarItems
from llmhd_pl.llm.preferences import Preferences
from llmhd_pl.llm.scorer import Scorer, check_scores
from llmhd_pl.llm.texts import item_title
from llmhd_pl.scale import FITTING


class Agreement(NamedTuple):
    """How often a scorer agrees with itself."""

    same: int
    """Pairs asked again after a revision whose scores stay on the same side of the middle of the scale."""
    compared: int
    """All pairs asked again."""
    similar_same: int
    """Pairs of similar items of one user whose scores lie on the same side."""
    similar: int
    """All pairs of similar items of one user."""


class Judgements:
    """The preferences of the users, the scores of the training interactions, and who was asked about what.

    A pair is asked about until it has a score, and again when the user's preference was revised.

    Args:
        scorer: The judge.
        texts: The text fields of every item.
        users: The user of each training sample, int64 [n].
        items: The observed item of each training sample, int64 [n].
        labels: The label of each training sample, 0 or 1, [n]; None: all are likes. The likes are a user's history, and
            a user without any is not asked about.
    """

    def __init__(
        self,
        scorer: Scorer,
        texts: Sequence[Mapping[str, str]],
        users: Tensor,
        items: Tensor,
        labels: Tensor | None = None,
    ) -> None:
        self.scorer, self.texts, self.users, self.items = scorer, texts, users, items
        self.preferences = Preferences()
        self._labelled = labels is not None
        self._liked = torch.ones(len(users), dtype=torch.bool) if labels is None else labels == 1
        self.histories = ItemsByUser(users[self._liked], items[self._liked])
        # The last score of each observed pair, whether it answers what would be asked now, and whether this process
        # has changed either of them since the last load.
        self._scores = torch.full((len(users),), torch.nan)
        self._asked = torch.zeros(len(users), dtype=torch.bool)
        self._changed = torch.zeros(len(users), dtype=torch.bool)
        self._similar: SimilarItems | None = None
        self._json_titles: dict[int, str] = {}
        self._preferences_path: Path | None = None
        self._warned = False  # that the preferences could not be written

    def prepare(self) -> None:
        """Let the scorer take in the catalog and the training interactions."""
        self.scorer.prepare(self.texts, torch.stack([self.users, self.items], dim=1)[self._liked])

    def summarize(self, epoch: int, users: Iterable[int]) -> None:
        """Ask for the preferences of those of these users who have none yet."""
        new = (user for user in users if user not in self.preferences.current and user in self.histories)
        histories = {user: self.histories[user] for user in new}
        if histories:
            self.preferences.update(epoch, "summary", self.scorer.summarize(histories))

    def score(self, epoch: int, users: Tensor, items: Tensor) -> Tensor:
        """Ask about pairs, and for the preferences that are missing.

        Args:
            epoch: The epoch, for the record of the preferences.
            users: The user of each pair, int64 [m].
            items: The item of each pair, int64 [m].

        Returns:
            float32 [m], 1 to 10; NaN is no answer.

        Raises:
            TypeError: If the scorer does not return a float32 tensor.
            ValueError: If it does not return one score from 1 to 10, or NaN, for each pair.
        """
        self.summarize(epoch, torch.bincount(users).nonzero().flatten().tolist())
        scores = torch.full((len(users),), torch.nan)
        known = torch.isin(users, self.users[self._liked]) if self._labelled else slice(None)
        pairs = torch.stack([users, items], dim=1)[known]
        if len(pairs):
            scores[known] = check_scores(self.scorer, self.scorer.score(self.preferences.current, pairs), pairs)
        return scores

    def score_observed(self, epoch: int, wanted: Tensor) -> tuple[Tensor, Agreement]:
        """Return the scores of the observed items of some samples; only those not asked about yet are asked about.

        Args:
            epoch: The epoch, for the record of the preferences.
            wanted: The samples, bool [n].

        Returns:
            The scores, float32 [n] with NaN for all other samples, and how far the new ones agree with the others.
        """
        new = (wanted & ~self._asked).nonzero().flatten()
        users, items = self.users[new], self.items[new]
        scores, last = self.score(epoch, users, items), self._scores[new]
        again = ~last.isnan() & ~scores.isnan()
        same = ((scores >= FITTING) == (last >= FITTING))[again]
        agreement = Agreement(int(same.sum()), int(again.sum()), *self._of_similar(users, items, scores))
        # Without a score, a pair has not been asked about, unless the budget forbids to ask any more.
        self._asked[new] = ~scores.isnan() | self._exhausted
        self._scores[new], self._changed[new] = scores, True
        return self._scores.where(wanted, torch.nan), agreement

    def _of_similar(self, users: Tensor, items: Tensor, scores: Tensor) -> tuple[int, int]:
        if not len(users):
            return 0, 0
        if self._similar is None:
            self._similar = SimilarItems(self.texts)
        return self._similar.agreement(users, items, scores, FITTING)

    @property
    def _exhausted(self) -> bool:
        return self.scorer.budget is not None and self.scorer.budget.exhausted

    def revise(self, epoch: int, disliked: Mapping[int, list[int]], liked: Mapping[int, list[int]]) -> set[int]:
        """Have preferences revised by what users turned out to dislike and to like.

        Their pairs are asked about again when they are needed next.

        Args:
            epoch: The epoch, for the record of the preferences.
            disliked: The items by user.
            liked: The items by user.

        Returns:
            The users whose preference was revised.
        """
        disliked, liked = (
            {user: items for user, items in group.items() if user in self.histories} for group in (disliked, liked)
        )
        users = sorted(disliked.keys() | liked.keys())
        if not users:
            return set()
        self.summarize(epoch, users)
        new = self.scorer.revise(self.preferences.current, disliked, liked)
        titles = [
            {user: [self.titles[item] for item in items] for user, items in group.items()}
            for group in (disliked, liked)
        ]
        self.preferences.update(epoch, "revision", new, *titles)
        revised = of_users(self.users, new)
        self._asked &= ~revised
        self._changed |= revised
        return set(new)

    @cached_property
    def titles(self) -> list[str]:
        """What to call each item in a report."""
        return [item_title(fields, f"item {item}") for item, fields in enumerate(self.texts)]

    def write_preferences(self, path: Path | None = None) -> None:
        """Write each preference and each change of it, with its cause, as JSON lines.

        If the file cannot be written there is one warning, and the next call tries again.

        Args:
            path: The file; None is the one of the last call. Nothing is written before a path is known.
        """
        self._preferences_path = path or self._preferences_path
        if self._preferences_path is None:
            return
        try:
            self.preferences.write(self._preferences_path)
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(f"{error} The run goes on, and tries again after the next epoch.", stacklevel=2)

    def write(
        self,
        path: Path,
        epoch: int,
        samples: Tensor,
        scores: Tensor,
        kept: Tensor,
        user_names: Sequence[str] | None = None,
        item_names: Sequence[str] | None = None,
    ) -> None:
        """Write what was decided about some samples as JSON lines.

        Args:
            path: The file; it is whole or not there.
            epoch: The epoch that the decisions belong to.
            samples: The samples, int64 [m].
            scores: The scores of their observed items, float32 [m]; NaN and infinity become null.
            kept: Whether each was found hard, bool [m].
            user_names: What the source calls the users, if the data was numbered anew.
            item_names: The same for items.

        Raises:
            OSError: If the file cannot be written. The message names it and what can be done.
        """
        user_ids, item_ids = (
            [f'"{key}": {json_text(name)}, ' for name in names or ()]
            for key, names in (("user_id", user_names), ("item_id", item_names))
        )
        labels = (f'"label": {label}, ' if self._labelled else "" for label in self._liked[samples].int().tolist())
        columns = (samples, self.users[samples], self.items[samples], scores, kept)
        with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
            # Put together by hand: a dict and a call of json for each of many thousands took longer than the selection.
            file.writelines(
                f'{{"epoch": {epoch}, "sample": {sample}, "user": {user}, "item": {item}, '
                f"{user_ids[user] if user_ids else ''}{item_ids[item] if item_ids else ''}"
                f'"title": {self._title_as_json(item)}, {label}'
                f'"score": {round(score, 2) if math.isfinite(score) else "null"}, '
                f'"kept": {"true" if hard else "false"}}}\n'
                for sample, user, item, score, hard, label in zip(*(c.tolist() for c in columns), labels, strict=True)
            )

    def _title_as_json(self, item: int) -> str:
        if item not in self._json_titles:
            self._json_titles[item] = json_text(self.titles[item])
        return self._json_titles[item]

    @property
    def own(self) -> dict[str, Any]:
        """What this process has changed since it started, and what it has used: its part for ``merged``."""
        changed = self._changed.nonzero().flatten()
        usage, budget = self.scorer.usage, self.scorer.budget
        return {
            "preferences": self.preferences.own,
            "scores": (changed, self._scores[changed], self._asked[changed]),
            "usage": {} if usage is None else usage.state_dict(),
            "exhausted": budget.max_tokens if budget is not None and budget.exhausted else None,
        }

    def merged(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state of all processes, for a checkpoint: tensors and plain Python.

        Args:
            parts: ``own`` of every process, this one's among them.
        """
        scores, asked = self._scores.clone(), self._asked.clone()
        for samples, new_scores, new_asked in (part["scores"] for part in parts):
            scores[samples], asked[samples] = new_scores, new_asked
        preferences = self.preferences.state_dict()
        if len(parts) > 1:
            preferences = self.preferences.merged([part["preferences"] for part in parts])
        spent = {name: [part[name] for part in parts] for name in ("usage", "exhausted")}
        return {"preferences": preferences, "scores": scores, "asked": asked, **spent}

    def load_state_dict(self, state: Mapping[str, Any], rank: int = 0, processes: int = 1) -> None:
        """Take over what ``merged`` returned.

        Each process goes on with the usage it had; if their number has changed, the usage is shared out.

        Args:
            state: The state of all processes.
            rank: This process.
            processes: The number of processes.
        """
        self.preferences.load_state_dict(state["preferences"])
        self._scores, self._asked = state["scores"].clone(), state["asked"].clone()
        self._changed = torch.zeros_like(self._asked)
        usage, budget, parts = self.scorer.usage, self.scorer.budget, state["usage"]
        if usage is not None:
            usage.load_state_dict(parts[rank] if len(parts) == processes else _share(parts, rank, processes))
        limits = [limit for limit in state["exhausted"] if limit is not None]
        if budget is not None and limits:
            budget.exhausted = budget.max_tokens in limits
        if not self._exhausted:  # it never was, or has been raised: ask again about what had no answer
            self._asked &= ~self._scores.isnan()


def _share(parts: Sequence[Mapping[str, Mapping[str, int]]], rank: int, processes: int) -> dict[str, dict[str, int]]:
    """One process's share of what all of them have used."""
    total = Usage()
    for part in parts:
        for template, counts in part.items():
            total.add(template, **counts)
    return {
        template: {name: (count + rank) // processes for name, count in counts.items()}
        for template, counts in total.state_dict().items()
    }
