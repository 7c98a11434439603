"""``llmhd judge``, in this process, on a small book shop."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from titles import TITLES
from torch import Tensor

from llmhd_pl import __main__ as command
from llmhd_pl.cli import main as cli
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.judge.measure import Area
from llmhd_pl.judge.pairs import training_pairs
from llmhd_pl.judge.tables import duration, figure
from llmhd_pl.llm.accounting import Usage
from llmhd_pl.llm.judge import FOLDER
from llmhd_pl.llm.scorer import Preference, Scorer

SIZES = [
    "--data.num_readers",
    "60",
    "--data.num_books",
    "50",
    "--data.num_topics",
    "5",
    "--data.books_per_reader",
    "12",
]
SHOP = ["--data", "SyntheticCatalog", *SIZES, "--data.noise_ratio", "0.2"]


class Own(Scorer):
    """Knows what it was given, and gives everybody the same preference."""

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        type(self).given = pairs.clone()  # type: ignore[attr-defined]
        type(self).summarized = []  # type: ignore[attr-defined]

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        type(self).summarized += list(histories)  # type: ignore[attr-defined]
        return dict.fromkeys(histories, "Likes \x1b[31mred\x1b[0m [bold]books[/bold].")

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        return torch.tensor([self.of(user, item) for user, item in pairs.tolist()], dtype=torch.float32)

    def of(self, user: int, item: int) -> float:
        return float(np.random.default_rng([7, user, item]).uniform(1, 10))

    def revise(self, *_: Any) -> dict[int, Preference]:
        return {}


class Oracle(Own):
    """Gives a 10 to the pairs that the test calls true."""

    true: frozenset[tuple[int, int]] = frozenset()

    def of(self, user: int, item: int) -> float:
        return 10.0 if (user, item) in self.true else 1.0


class Failing(Own):
    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        raise ConnectionError("the server is down")


class Silent(Own):
    def of(self, user: int, item: int) -> float:
        return float("nan")


class Metered(Own):
    """Costs 10 tokens a preference and 4 a score, and is no language model."""

    def __init__(self) -> None:
        self.usage = Usage()

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        self.usage.add("summary", len(histories), 0, 10 * len(histories))
        return super().summarize(histories)

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        self.usage.add("score", len(pairs), 0, 3 * len(pairs), len(pairs))
        return super().score(preferences, pairs)


class HostileShop(SyntheticCatalog):
    """The books have titles that no terminal should see as they are."""

    def book(self, rng: np.random.Generator, topic: int) -> dict[str, str]:
        return super().book(rng, topic) | {"title": TITLES[int(rng.integers(len(TITLES)))] + "\x1b[0m [/off]"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["llmhd"])
    monkeypatch.setenv("COLUMNS", "200")


def judge(*arguments: str) -> dict[str, Any]:
    """What ``llmhd judge`` writes."""
    command.main(["judge", *arguments, "--out", "found/judge.json"])
    found: dict[str, Any] = json.loads(Path("found/judge.json").read_text(encoding="utf-8"))
    return found


def small_shop(noise_ratio: float = 0.2, **arguments: Any) -> SyntheticCatalog:
    """The data of ``SHOP``."""
    data = SyntheticCatalog(60, 50, 5, 12, noise_ratio=noise_ratio, **arguments)
    data.setup()
    return data


def rows(pairs: Tensor) -> set[tuple[int, int]]:
    return {(user, item) for user, item in pairs.tolist()}


def cells(printed: str, first: str, columns: int | None = None) -> list[str]:
    """The cells of the one line of a table that begins with a text and has so many columns."""
    lines = (line.strip("│").split("│") for line in printed.splitlines() if re.match(rf"│ {re.escape(first)} +│", line))
    (found,) = (line for line in lines if columns in (None, len(line)))
    return [cell.strip() for cell in found]


def test_what_is_printed_is_what_is_written(capsys: Any) -> None:
    found = judge(*SHOP, "--scorer", "LexicalScorer", "--scorer.max_features", "500", "--pairs", "40")
    printed = capsys.readouterr().out
    assert found["scorer"] == "LexicalScorer" and f"{found['pairs']} pairs, seed 0" in printed
    assert [area["name"] for area in found["areas"]] == [
        "train", "train, within users", "held-out", "held-out, within users",
    ]  # fmt: skip
    for area in found["areas"]:
        assert cells(printed, area["name"], 6)[1:] == [
            figure(area["auc"]),
            f"{figure(area['low'])} to {figure(area['high'])}",
            figure(area["popularity"]),
            f"{area['genuine']} / {area['others']}",
            area["verdict"],
        ]
        assert area["low"] <= area["auc"] <= area["high"]
    assert found["areas"][0]["genuine"] == found["areas"][0]["others"] == 40
    for group, counts in found["scores"].items():
        assert cells(printed, group, 11)[1:] == [str(count or "") for count in counts]
    assert sum(map(sum, found["scores"].values())) == round(found["answered"] * found["pairs"])
    assert f"({found['answered']:.1%} of the pairs" in printed
    (cost,) = found["cost"]
    assert cost["questions"] == len(small_shop().train_users) and cost["tokens"] is None
    assert cells(printed, cost["what"])[1:] == [f"{cost['questions']:,}", "", duration(cost["seconds"])]
    assert len(found["preferences"]) == len(found["judged"]) == 10
    for read in found["preferences"]:
        assert read["preference"].startswith("the mean of ") and read["items"][0] in printed
    scores = [judged["score"] for judged in found["judged"]]
    assert scores == sorted(scores, reverse=True) and f"│ {scores[0]:.1f} " in printed
    assert {judged["group"] for judged in found["judged"]} <= {"genuine", "planted"}


def test_the_seed_decides_all_but_the_times() -> None:
    def without_times(*more: str) -> dict[str, Any]:
        found = judge(*SHOP, "--scorer", "LexicalScorer", "--pairs", "30", *more)
        return {name: found[name] for name in found if name not in ("prepare_seconds", "asking", "cost")}

    first = without_times()
    assert without_times() == first
    other = without_times("--seed_everything", "1")
    assert other["areas"] != first["areas"] and other["seed"] == 1


def test_the_judge_learns_from_the_training_interactions_alone() -> None:
    judge(*SHOP, "--scorer", "test_judge_command.Own", "--pairs", "10")
    data = small_shop()
    assert torch.equal(Own.given, training_pairs(data))  # type: ignore[attr-defined]
    held_out = rows(torch.cat([data.interactions.valid, data.interactions.test]))
    assert held_out and not held_out & rows(Own.given)  # type: ignore[attr-defined]


def test_only_the_users_of_the_sample_are_summarized_and_once() -> None:
    found = judge(*SHOP, "--scorer", "test_judge_command.Own", "--pairs", "10")
    summarized: list[int] = Own.summarized  # type: ignore[attr-defined]
    assert len(summarized) == len(set(summarized)) == found["asking"]["summaries"]["asked"] <= 10
    assert {judged["user"] for judged in found["judged"]} <= set(summarized)


def test_a_judge_that_answers_at_random_cannot_tell(capsys: Any) -> None:
    found = judge(*SHOP, "--scorer", "test_judge_command.Own", "--pairs", "40")
    assert [area["verdict"] for area in found["areas"]] == ["this judge cannot tell"] * 4
    assert capsys.readouterr().out.count("this judge cannot tell") == 4


def test_a_judge_that_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_shop()
    true = rows(torch.cat([training_pairs(data)[~data.noise_mask], data.interactions.valid]))
    monkeypatch.setattr(Oracle, "true", frozenset(true))
    found = judge(*SHOP, "--scorer", "test_judge_command.Oracle", "--pairs", "40")
    assert [(area["auc"], area["high"]) for area in found["areas"]] == [(1, 1)] * 4
    assert all(0.8 < area["low"] < 1 for area in found["areas"])  # so many users are no proof
    assert {area["verdict"] for area in found["areas"]} == {"can tell"}
    assert found["scores"]["genuine"] == [0] * 9 + [40] and found["scores"]["planted"] == [40] + [0] * 9
    monkeypatch.setattr(Oracle, "true", frozenset(rows(torch.cartesian_prod(*map(torch.arange, (60, 50))))) - true)
    wrong = judge(*SHOP, "--scorer", "test_judge_command.Oracle", "--pairs", "40")
    assert {area["verdict"] for area in wrong["areas"]} == {"worse than a coin: this judge prefers the wrong ones"}


def test_the_verdict_knows_popularity() -> None:
    assert Area("train", 0.7, 0.6, 0.8, 0.65, 9, 9).verdict == "can tell"
    assert "below popularity" in Area("train", 0.7, 0.6, 0.8, 0.75, 9, 9).verdict
    assert Area("train", 0.55, 0.5, 0.6, 0.75, 9, 9).verdict == "this judge cannot tell"


def test_without_noise_some_is_drawn_for_the_measurement_alone(capsys: Any) -> None:
    clean = ["--data", "SyntheticCatalog", *SIZES, "--data.misclick_share", "0"]
    found = judge(*clean, "--scorer", "test_judge_command.Own", "--pairs", "40")
    data = small_shop(noise_ratio=0, misclick_share=0)
    assert found["planted_here"] and found["areas"][0]["others"] == 40
    assert rows(Own.given) == rows(data.interactions.train)  # type: ignore[attr-defined]
    assert "no planted noise" in " ".join(capsys.readouterr().out.split())
    judge(*SHOP, "--scorer", "test_judge_command.Own", "--pairs", "40")
    assert "no planted noise" not in " ".join(capsys.readouterr().out.split())


def test_an_error_of_the_judge_is_shown_as_it_is() -> None:
    with pytest.raises(ConnectionError, match="the server is down"):
        judge(*SHOP, "--scorer", "test_judge_command.Failing")
    assert not Path("found").exists()


def test_a_judge_that_says_nothing(capsys: Any) -> None:
    found = judge(*SHOP, "--scorer", "test_judge_command.Silent", "--pairs", "20")
    assert found["answered"] == 0 and found["judged"] == []
    assert [(area["auc"], area["verdict"]) for area in found["areas"]] == [(None, "nothing to compare")] * 4
    assert cells(capsys.readouterr().out, "train")[1:4] == ["-", "- to -", "-"]


def test_titles_and_preferences_do_not_reach_the_terminal_as_they_are(capsys: Any) -> None:
    data = ["--data", "test_judge_command.HostileShop", *SIZES, "--data.noise_ratio", "0.2"]
    found = judge(*data, "--scorer", "test_judge_command.Own")
    printed = capsys.readouterr().out
    assert all("\x1b[0m [/off]" in judged["item"] for judged in found["judged"])  # the file has them as they are
    assert all(line.isprintable() for line in printed.splitlines())
    assert "\\x1b[31mred" in printed and "[bold]books[/bold]" in printed


def test_the_embedded_judge_and_its_cache(capsys: Any) -> None:
    asked = [
        *SHOP,
        "--scorer",
        "EmbeddedJudge",
        "--scorer.cache",
        "answers.sqlite",
        "--pairs",
        "6",
        "--trainer.max_epochs",
    ]
    found = judge(*asked, "3")
    printed = capsys.readouterr().out
    summaries, scores = (found["asking"][name] for name in ("summaries", "scores"))
    assert 1 < summaries["calls"] == summaries["asked"] <= 6 and scores["calls"] == scores["asked"] == found["pairs"]
    assert summaries["per_second"] > 0 and summaries["calls_each"] == scores["calls_each"] == 1
    assert "This reader" in found["preferences"][0]["preference"]
    cost = {row["what"]: row for row in found["cost"]}
    assert cost["T_sum"]["questions"] == 60
    assert cost["T_score"]["tokens"] == pytest.approx(cost["T_score"]["questions"] * scores["tokens_each"], abs=1)
    assert cost["T_score"]["seconds"] == pytest.approx(cost["T_score"]["questions"] / scores["per_second"])
    assert cells(printed, "T_score")[1:3] == [f"{cost['T_score'][name]:,}" for name in ("questions", "tokens")]
    again = judge(*asked, "3")
    assert again["areas"] == found["areas"] and again["preferences"] == found["preferences"]
    assert again["asking"]["scores"]["calls"] == 0 and again["asking"]["scores"]["cache_hits"] == found["pairs"]
    assert (
        again["asking"]["scores"]["per_second"] is None
        and cells(capsys.readouterr().out, "T_score")[3] == "not measured"
    )
    assert len(Path("answers.sqlite").read_bytes()) > 0


LEXICAL = {"class_path": "LexicalScorer"}
LIKELIHOOD = {
    "class_path": "QuantizedLLM",
    "init_args": {"model": str(FOLDER), "quantization": "none", "scoring": "likelihood", "history_tokens": 64},
}


@pytest.mark.parametrize(
    "scorer",
    [
        {"class_path": "EncoderScorer", "init_args": {"model": str(FOLDER), "quantization": "none"}},
        LIKELIHOOD,
        {"class_path": "CascadeScorer", "init_args": {"first": LEXICAL, "second": LIKELIHOOD, "share": 0.2}},
    ],
    ids=["hidden states", "likelihood", "cascade"],
)
def test_every_way_of_using_a_language_model(scorer: dict[str, Any], capsys: Any) -> None:
    Path("scorer.yaml").write_text(yaml.safe_dump({"scorer": scorer}))
    found = judge(*SHOP, "--config", "scorer.yaml", "--pairs", "10")
    assert found["scorer"] == scorer["class_path"] and found["answered"] > 0.9
    assert 0 <= found["areas"][0]["auc"] <= 1 and "Can it tell?" in capsys.readouterr().out


@pytest.mark.parametrize("scoring", ["expected", "likelihood"])
def test_what_calibrates_the_scores_is_paid_but_is_not_the_price_of_a_pair(scoring: str) -> None:
    model = ["--scorer", "QuantizedLLM", "--scorer.model", str(FOLDER), "--scorer.device", "cpu"]
    more = ["--scorer.prompts", "books", "--scorer.scoring", scoring, "--scorer.quantization", "none"]
    found = judge(*SHOP, *model, *more, "--pairs", "6")
    summaries, scores = (found["asking"][name] for name in ("summaries", "scores"))
    assert scores["calls"] > 2 * scores["asked"]  # up to 400 pairs more
    assert found["answered"] == 1
    costs = {row["what"]: row for row in found["cost"]}
    if scoring == "expected":
        assert scores["calls_each"] == summaries["calls_each"] == 1
        assert costs["T_sum"]["questions"] == 60
    else:  # no text is written, and each pair is asked about with and without the user's list
        assert 1 < scores["calls_each"] <= 2 and summaries["calls_each"] == summaries["calls"] == 0
        assert costs["T_sum"] == {"what": "T_sum", "questions": 0, "tokens": 0, "seconds": 0}
        assert found["preferences"][0]["preference"].startswith("the mean of ")
    assert costs["T_score"]["tokens"] == round(costs["T_score"]["questions"] * scores["tokens_each"])


def test_a_run_asks_as_often_as_cost_estimate_says(capsys: Any) -> None:
    method = ["--denoising", "LLMHD", "--denoising.scorer", "EmbeddedJudge", "--denoising.confidence_epochs", "2"]
    run = ["--model", "GMF", *SHOP, *method, "--denoising.ramp_epochs", "1", "--trainer.max_epochs", "4"]
    with pytest.raises(SystemExit):
        cli(["fit", *run, "--trainer.accelerator", "cpu", "--trainer.callbacks+=llmhd_pl.CostEstimate"])
    printed = capsys.readouterr().out
    calls = {name: int(cells(printed, name)[1].replace(",", "")) for name in ("T_sum", "T_score", "T_FP", "T_FN")}
    found = judge(*run, "--pairs", "3")
    assert {row["what"]: row["questions"] for row in found["cost"]} == calls and calls["T_FP"] > 0
    assert found["run"]["objective"] == "pointwise" and found["run"]["epochs"] == 4
    pairwise = judge("--model", "MF", *run[2:], "--pairs", "3")
    # Of a pair either item's variance makes it a candidate, but nothing is asked about sampled items in either case.
    assert pairwise["cost"][1]["what"] == "T_score" and pairwise["cost"][1]["questions"] > calls["T_score"]
    printed_rule = judge("--model", "MF", *run[2:], "--pairs", "3", "--denoising.rule", "paper")
    assert printed_rule["cost"][1]["questions"] > pairwise["cost"][1]["questions"]


def test_a_judge_of_ones_own_that_counts_its_tokens() -> None:
    found = judge(*SHOP, "--scorer", "test_judge_command.Metered", "--pairs", "10")
    assert found["asking"]["summaries"]["tokens_each"] == 10 and found["asking"]["scores"]["tokens_each"] == 4
    for row, each in zip(found["cost"], (10, 4), strict=True):
        assert row["tokens"] == each * row["questions"] > 0


def test_the_questions_of_an_audit_are_part_of_the_cost() -> None:
    method = ["--denoising", "LLMHD", "--denoising.scorer", "test_judge_command.Metered", "--denoising.drop_rate"]
    at_a_rate, audited = (judge(*SHOP, *method, rate, "--pairs", "10")["cost"] for rate in ("0.2", "auto"))
    questions = [{key: row[key] for key in ("what", "questions", "tokens")} for row in (*at_a_rate, *audited)]
    before, after = questions[: len(at_a_rate)], questions[len(at_a_rate) :]
    more = {"T_sum": (60, 10), "T_score": (60 * 5, 4)}  # questions and the tokens of each: one item of each user
    for one, two in zip(before, after, strict=True):
        number, tokens = more.get(one["what"], (0, 0))
        assert two["questions"] == one["questions"] + number
        assert two["tokens"] == one["tokens"] + number * tokens


def test_configurations(capsys: Any) -> None:
    """Data and judge in a file, and the file of a fit, whose other settings say what its run costs."""
    shop = {"num_readers": 60, "num_books": 50, "num_topics": 5, "books_per_reader": 12, "noise_ratio": 0.2}
    own = {
        "data": {"class_path": "SyntheticCatalog", "init_args": shop},
        "scorer": {"class_path": "LexicalScorer", "init_args": {"max_features": 500}},
    }
    Path("own.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    assert (
        judge("--config", "own.yaml")["areas"]
        == judge(*SHOP, "--scorer", "LexicalScorer", "--scorer.max_features", "500")["areas"]
    )
    of_fit = ["--config", "quickstart", *SIZES, "--pairs", "3"]
    found = judge(*of_fit)
    assert found["scorer"] == "EmbeddedJudge"
    expected = {"epochs": 60, "objective": "pointwise", "rule": "joint", "scored": "all", "drop_rate": 0.28}
    assert found["run"] == expected | {"confidence_epochs": 24}
    assert judge(*of_fit, "--scorer", "LexicalScorer")["scorer"] == "LexicalScorer"
    Path("wrong.yaml").write_text(yaml.safe_dump(own | {"scoring": "expected"}), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        judge("--config", "wrong.yaml")
    assert ended.value.code == 2 and "scoring" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (SHOP, "there is no judge: give --scorer"),
        ([*SHOP, "--denoising", "TCE"], "there is no judge: give --scorer"),
        ([*SHOP, "--scorer", "LexicalScorer", "--pairs", "0"], "--pairs is 0; it must be at least 1"),
        (["--scorer", "LexicalScorer"], "data"),
        ([*SHOP, "--scorer", "LexikalScorer"], "LexikalScorer"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        judge(*arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_data_without_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SyntheticCatalog, "book", lambda *_: {})
    load = SyntheticCatalog.load

    def without_texts(self: SyntheticCatalog) -> Any:
        data = load(self)
        data.items = []
        return data

    monkeypatch.setattr(SyntheticCatalog, "load", without_texts)
    with pytest.raises(ValueError, match=r"SyntheticCatalog has no item texts.*items\.jsonl"):
        judge(*SHOP, "--scorer", "LexicalScorer")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12 ms"), (12, "12.0 s"), (90, "1.5 min"), (7200, "2.0 h"), (36_000_000, "10,000.0 h")],
)
def test_times_in_their_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
