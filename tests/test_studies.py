"""The studies' parts, on less data; their figures stand in docs/studies."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from scipy.stats import ttest_rel

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.llm.lexical import LexicalScorer
from llmhd_pl.llm.prompts import Prompts

sys.path.insert(0, str(Path(__file__).parent.parent / "studies"))
import clients
import comparison
import drift
import negatives
import planted
import prompts
import variance


def test_updates_are_never_told_of_what_preferences_are_judged_by() -> None:
    readers = drift.Readers(20)
    judged = {tuple(pair) for pair in [*readers.liked.tolist(), *readers.not_liked.tolist()]}
    for user in readers.histories:
        tastes = set(readers.data.tastes[user].tolist())
        for update in range(1, 11):
            for truth in (1.0, 0.0):
                disliked, liked = readers.told(user, truth, update)
                assert not judged & {(user, item) for item in disliked + liked}
                assert all((int(readers.data.topics[item]) in tastes) == (truth == 1) for item in liked)
                assert all((int(readers.data.topics[item]) in tastes) == (truth == 0) for item in disliked)


def test_wrong_flags_spoil_what_correct_flags_improve() -> None:
    readers, scorer = drift.Readers(40), LexicalScorer()
    scorer.prepare(readers.data.interactions.items, readers.train)
    correct, wrong = (drift.study(scorer, readers, truth) for truth in (1.0, 0.0))
    assert [row["update"] for row in correct] == list(range(11))
    assert correct[0] == wrong[0] and correct[0]["as before"] == correct[0]["as in the beginning"] == 1
    assert correct[10]["AUC"] > correct[0]["AUC"] > wrong[10]["AUC"]


def test_other_wordings_are_whole_prompts(tmp_path: Path) -> None:
    hashes = {Prompts.load("books").hash}
    for text in (prompts.reworded(), prompts.upside_down()):
        path = tmp_path / f"{len(hashes)}.toml"
        path.write_text(text, encoding="utf-8")
        hashes.add(Prompts.load(str(path)).hash)
    assert len(hashes) == 3
    scale = [line for line in prompts.upside_down().splitlines() if line[:2] in ("10", "9:", "1:")]
    assert [line.partition(":")[0] for line in scale] == ["10", "9", "1"]


def test_variances_of_the_kinds_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(variance, "EPOCHS", (3, 6))
    data = SyntheticCatalog(60, 80, num_topics=8, books_per_reader=12, misclick_share=0.4, negative_lifetime=1)
    look = variance.study(data, "MF", seed=0)
    assert [(row["epochs"], row["m"]) for row in look.rows] == [(e, m) for e in (3, 6) for m in variance.WINDOWS]
    assert all(0 <= row["AUC, all"] <= 1 for row in look.rows)
    assert [len(look.shown[kind]) for kind in ("easy", "hard", "noise")] == [
        int((data.train_kinds == kind).sum()) for kind in range(3)
    ]


class Chosen(Callback):
    """Notes which sampled items a study's model has trained on, and which candidates it had."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note them."""
        self.seen.append((batch["candidates"], outputs["negative"], batch["fits"]))


def fitted(folder: Path, **arguments: Any) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    data = SyntheticCatalog(60, 80, num_topics=8, books_per_reader=12, num_negatives=3, negative_lifetime=4)
    chosen = Chosen()
    trainer = Trainer(
        max_epochs=4, callbacks=[chosen], logger=False, limit_val_batches=0, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, default_root_dir=folder,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(negatives.ChosenNegatives(data.num_users, data.num_items, embedding_dim=8, **arguments), data)
    return chosen.seen


def test_sampled_items_that_fit_are_taken_only_if_all_candidates_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    items = (torch.arange(80) < 40).float()[:, None]  # the first half of the catalog fits everybody
    monkeypatch.setattr(negatives, "fitting", lambda data, share: (torch.ones(60, 1), items, torch.full((60,), 0.5)))
    for judged in ("half", "veto"):
        seen = fitted(tmp_path, judged_share=0.5, judged=judged)
        assert all(torch.equal(fits, negative < 40) for _, negative, fits in seen)
        forced = torch.cat([(candidates < 40).all(1) for candidates, _, _ in seen])
        fitting = torch.cat([fits for _, _, fits in seen])
        assert torch.equal(fitting, forced) if judged == "veto" else fitting.sum() > forced.sum()


def test_the_deviation_is_that_of_the_epochs_in_which_the_candidates_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: dict[int, list[list[float]]] = {}
    deviation = negatives.ChosenNegatives._deviation

    def noted(model: Any, batch: Any, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = deviation(model, batch, value)
        for sample, row, of_row in zip(batch["sample"].tolist(), value.tolist(), found.tolist(), strict=True):
            kept.setdefault(sample, []).append(row)
            assert of_row == pytest.approx(np.std(kept[sample], axis=0).tolist(), abs=1e-6)
        return found

    monkeypatch.setattr(negatives.ChosenNegatives, "_deviation", noted)
    fitted(tmp_path, variance_weight=1.0)
    assert {len(rows) for rows in kept.values()} == {4}


def test_clients_are_measured_once_and_summed_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    examples = {
        "two towers": ("two_tower_softmax", "two towers", 1, 1),
        "DeepFM": ("ctr_labels", "DeepFM", 1, 1),
        "X": ("no_such_example", "X", 1, 1),  # its library is missing, so it is left out
    }
    monkeypatch.setattr(clients, "RECORDS", tmp_path / "clients.jsonl")
    monkeypatch.setattr(clients, "CLIENTS", examples)
    monkeypatch.setattr(clients, "book_shop", lambda readers, seed: comparison.book_shop(40, seed))
    for seeds, new in (([0], [0] * 6), ([0], []), ([0, 1], [1] * 6)):
        rows = list(clients.measured(None, list(examples), seeds))
        assert [row["seed"] for row in rows] == new
        with clients.RECORDS.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    lines = clients.table().splitlines()[2:]
    for line, client, metric in zip(lines, examples, ("NDCG@10", "AUC"), strict=False):
        judge = [row for row in clients.records() if row["client"] == client and row["arm"] == "judge"]
        (one, two), found = (row[metric] for row in judge), sum(row["precision"] for row in judge) / 2
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[:3] == ["book shop", client, metric] and len(cells) == 9
        assert cells[5] == f"{(one + two) / 2:.4f} ± {abs(one - two) / 2**0.5:.4f}"
        assert cells[8].split(" ± ")[0] == f"{found:.0%}"
    assert len(lines) == 2
    for line, client, metric in zip(clients.gains().splitlines()[2:], examples, ("NDCG@10", "AUC"), strict=False):
        plain, judge = (
            [row[metric] for row in clients.records() if row["client"] == client and row["arm"] == arm]
            for arm in ("plain", "judge")
        )
        gain = sum(one / other for one, other in zip(judge, plain, strict=True)) / 2 - 1
        assert line.split("|")[3].strip() == f"{gain:+.1%}, {ttest_rel(judge, plain).pvalue:.3f}"


def test_planted_clicks_come_at_times_between_the_others_of_their_user(tmp_path: Path) -> None:
    rows = [
        f"u{user}\t{(3 * user + place) % 20}\t{'5' if place < 10 else '1'}\t{100 * user + place if place < 10 else 7}"
        for user in range(1, 11)
        for place in range(15)  # the last five are rated too low to be clicks, and early
    ]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (tmp_path / "ml-100k.inter").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "ml-100k.item").write_text(
        "\n".join(["item_id:token\ttitle:token_seq", *(f"{item}\tA" for item in range(20))]) + "\n"
    )
    clicks = clients.ml_100k(str(tmp_path), seed=0)
    assert len(clicks.users) == 10 * 8 + 16 and int(clicks.noise.sum()) == 16 and len(clicks.test) == 20
    for user, row in enumerate(clicks.sequences()):
        real = clicks.times[row][~clicks.noise[row]]
        assert (real.diff() == 1).all() and len(real) == 8  # the first eight of each user, by their own times
        assert ((clicks.times[row] >= real.min()) & (clicks.times[row] <= real.max())).all(), user


def test_an_estimate_is_compared_with_what_was_planted_and_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    cut = {"above": 0.5, "dropped": 10, "right": 0.1, "planted": 0.8}
    both = {"data": "yelp", "scorer": "lexical", "seed": 0, "auc": 0.8, "auc_not_planted": 0.9, "cuts": [cut]}
    rows = [
        both
        | {"source": "random", "ratio": 0.0, "planted": 0.0, "share": 0.1, "low": 0.0, "high": 0.2, "can_tell": True},
        both
        | {"source": "random", "ratio": 0.2, "planted": 0.2, "share": 0.3, "low": 0.2, "high": 0.4, "can_tell": True},
        both
        | {"source": "random", "ratio": 0.4, "planted": 0.3, "share": 0.3, "low": 0.0, "high": 0.4, "can_tell": False},
    ]
    monkeypatch.setattr(planted, "RECORDS", tmp_path / "planted.jsonl")
    planted.RECORDS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = planted.read()
    assert table.error.tolist() == pytest.approx([0.0, 0.3 - (0.2 + 0.1 * 0.8), 0.3 - (0.3 + 0.1 * 0.7)])
    planted.summarise(table)
    planted.show(table)
    said = capsys.readouterr().out
    assert "* lexical, can tell: 1 audits, error +0.020 to +0.020, 1 within .03" in said
    assert "* lexical, cannot tell: 1 audits, error -0.070 to -0.070, 0 within .03" in said
    assert "| lexical | yelp | 20% random | 10% | 10 | 80% |" in said
