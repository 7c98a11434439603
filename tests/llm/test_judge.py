"""The embedded judge: the whole 4-bit path, offline, on a CPU."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from llmhd_pl.llm.judge import FOLDER, EmbeddedJudge
from tools import train_judge

NOBODY = torch.empty(0, 2, dtype=torch.int64)


def test_it_is_as_small_as_it_says() -> None:
    assert sum(file.stat().st_size for file in Path(FOLDER).iterdir() if file.is_file()) <= 8_000_000
    with safe_open(Path(FOLDER) / "model.safetensors", "pt") as file:
        assert 1_000_000 <= sum(file.get_tensor(name).numel() for name in file.keys()) <= 3_000_000  # noqa: SIM118


def test_it_judges_readers_and_books_it_was_not_trained_on() -> None:
    """The bounds and the readers of docs/judges.md; and the bound on what an order in a book's text does."""
    figures = train_judge.evaluate("nf4")
    assert figures["auc"] >= 0.90
    assert figures["main_taste"] >= 0.95
    assert figures["revised"] >= 0.90
    assert figures["order_10"] <= 1.3 and figures["order_1"] <= 1.3


def test_books_that_are_held_out_share_no_combination_with_the_others() -> None:
    trained, held_out = train_judge.TrainingCatalog(10, 200), train_judge.HeldOutCatalog(10, 200)
    assert not any(train_judge.is_held_out(book) for book in trained.interactions.items)
    assert all(train_judge.is_held_out(book) for book in held_out.interactions.items)


@pytest.fixture(scope="module")
def both_scores() -> tuple[torch.Tensor, torch.Tensor]:
    """Expected and generated scores of the same pairs, by the same model."""
    data = train_judge.HeldOutCatalog(num_readers=40, seed=5)
    data.setup()
    generator = torch.Generator().manual_seed(0)
    users = torch.arange(40).repeat(10)
    pairs = torch.stack([users, torch.randint(data.num_items, (400,), generator=generator)], dim=1)
    names = train_judge.NAMES
    preferences = {
        user: str(train_judge.Taste({names[main]: "loves", names[minor]: "likes"}))
        for user, (main, _, minor) in enumerate(data.tastes.tolist())
    }
    scores = []
    for scoring in ("expected", "generate"):
        judge = EmbeddedJudge(scoring=scoring)  # type: ignore[arg-type]
        judge.prepare(data.interactions.items, NOBODY)
        scores.append(judge.score(preferences, pairs))
    return scores[0], scores[1]


def test_expected_and_generated_scores_agree_in_order(both_scores: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected, generated = both_scores
    assert not expected.isnan().any() and not generated.isnan().any()
    assert len(generated.unique()) >= 3
    higher = generated[:, None] > generated[None]
    agree = (expected[:, None] > expected[None])[higher].float().mean()
    assert agree >= 0.97
