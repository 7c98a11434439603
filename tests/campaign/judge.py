"""A judge with an answer cache, for the faults of caches."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from llmhd_pl.llm.asking import Rating
from llmhd_pl.llm.language_model import LanguageModelScorer

PAIRS = torch.tensor([[0, item] for item in range(8)])
PREFERENCES: dict[int, str | list[int]] = {0: "Likes birds."}


class Judge(LanguageModelScorer):
    """A model that answers by the length of what it reads, and counts the pairs."""

    def __init__(self, path: Path, replay: bool = False) -> None:
        super().__init__(cache=str(path), replay=replay, calibrate=False)
        self.asked = 0
        self.prepare([{"title": f"Bird {'x' * item}"} for item in range(8)], PAIRS)

    @property
    def model_fingerprint(self) -> dict[str, str]:
        return {"model": "judge"}

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        for number, prompt in enumerate(prompts):
            self.asked += 1
            yield number, f"<summarization>Likes birds of {len(prompt)}</summarization>", 9, 9

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        for number, (beginning, endings) in enumerate(groups):
            for place, ending in enumerate(endings):
                self.asked += 1
                yield Rating(number, place, 1 + len(beginning + ending) % 90 / 10, 9, 1)

    def all_answers(self) -> tuple[list[float], Any]:
        return self.score(PREFERENCES, PAIRS).tolist(), self.summarize({0: [0, 1, 2]})


def filled(path: Path) -> tuple[list[float], Any]:
    """Fill a cache and return what it holds."""
    judge = Judge(path)
    answers = judge.all_answers()
    assert judge.asked == 9 and judge.cache is not None
    judge.cache.close()
    return answers


@contextlib.contextmanager
def warned() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
