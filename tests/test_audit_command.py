"""``llmhd audit``, in this process, on a small book shop and on small files."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmhd_pl import AtomicFiles
from llmhd_pl import __main__ as command

SHOP = ["--data", "SyntheticCatalog", "--data.num_readers", "150", "--data.num_books", "100", "--data.num_topics", "5"]
LEXICAL = ["--scorer", "LexicalScorer"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def audit(*arguments: str) -> None:
    command.main(["audit", *arguments])


def atomic(folder: Path, noise: float = 0.2) -> Path:
    """Users who buy books of their topic, and now and then any other book."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = set()
    for user in range(200):
        for _ in range(15):
            item = int(rng.integers(100)) if rng.random() < noise else int(rng.integers(20)) * 5 + user % 5
            rows.add((f"u{user}", f"i{item}"))
    text = "".join(f"{user}\t{item}\n" for user, item in sorted(rows))
    (folder / "shop.inter").write_text(f"user_id:token\titem_id:token\n{text}")
    topics = ("cooking pasta", "gothic horror", "garden roses", "space travel", "tax law")
    text = "".join(f"i{item}\t{topics[item % 5]} {item}\n" for item in range(100))
    (folder / "shop.item").write_text(f"item_id:token\ttitle:token_seq\n{text}")
    return folder


def test_it_says_how_much_is_chance_and_writes_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    audit(*SHOP, *LEXICAL)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"judged by LexicalScorer\. By chance: [0-9.]+% \([0-9.]+% to [0-9.]+%\)", said)
    assert "By popularity and activity" in said
    # These readers have two tastes each.
    assert "This judge cannot tell" in said and "users are too alike for anybody to be recognised by an item" in said
    assert "What dropping would do (not to be relied on: this judge cannot tell)" in said
    assert "Page: audit.html" in said
    assert "<script" in Path("audit.html").read_text()


def test_a_copy_with_weights_and_one_without_what_is_suspicious(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(atomic(Path("shop")))
    data = ["--data", "AtomicFiles", "--data.data_dir", folder, "--data.split_ratios", "[1, 0, 0]"]
    audit(*data, *LEXICAL, "--references", "30", "--out", "weighted")
    assert "cannot tell" not in capsys.readouterr().out
    audit(*data, *LEXICAL, "--references", "30", "--out", "dropped", "--drop", "0.1", "--page", "null")
    before = Path("shop/shop.inter").read_text().splitlines()
    weighted = Path("weighted/shop.inter").read_text().splitlines()
    assert [line.rpartition("\t")[0] for line in weighted] == before
    assert weighted[0].endswith("weight:float")
    weights = {tuple(line.split("\t")[:2]): float(line.split("\t")[2]) for line in weighted[1:]}
    kept = {tuple(line.split("\t")) for line in Path("dropped/shop.inter").read_text().splitlines()[1:]}
    assert kept < set(weights)
    dropped = set(weights) - kept
    wrong = {pair for pair in weights if int(pair[0][1:]) % 5 != int(pair[1][1:]) % 5}
    assert len(dropped & wrong) > 0.8 * len(dropped) > 0
    assert np.mean([weights[pair] for pair in wrong]) < 0.3 < 0.7 < np.mean([weights[p] for p in set(weights) - wrong])
    worst = pq.read_table("dropped/suspicious.parquet").to_pylist()[:20]
    assert all((row["user"], row["item"]) in wrong for row in worst)
    copy = AtomicFiles("weighted", split_ratios=(1, 0, 0))
    copy.setup("fit")
    assert len(copy.train_users) == len(weights)


def test_the_configuration_of_a_fit_serves_too() -> None:
    audit("--config", "quickstart", *LEXICAL, "--sample", "300", "--data.num_readers", "200", "--page", "null")
    assert not Path("audit.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample", "0"], "--sample is 0; it must be at least 1"),
        (["--references", "-1"], "--references is -1"),
        (["--drop", "2", "--out", "x"], "--drop is 2.0; it is a share"),
        (["--drop", "0.1"], "give --out too"),
        (["--out", "."], "is not empty"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    with pytest.raises(SystemExit):
        audit(*SHOP, *LEXICAL, *arguments)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("audit.html").exists()


@pytest.mark.parametrize("drop", [[], ["--drop", "0.1"]])
def test_a_judge_that_cannot_tell_writes_no_copy(drop: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = atomic(Path("shop"), noise=1.0)
    data = ["--data", "AtomicFiles", "--data.data_dir", str(folder)]
    with pytest.raises(SystemExit):
        audit(*data, *LEXICAL, "--out", "copy", *drop)
    captured = capsys.readouterr()
    assert "This judge cannot tell" in captured.out
    assert "so copy was not written" in (error := " ".join(captured.err.split()))
    assert "another --scorer" in error and "write_clean_copy in Python" in error
    assert not Path("copy").exists()


def test_files_without_texts_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    folder = atomic(Path("shop"))
    (folder / "shop.item").unlink()
    with pytest.raises(SystemExit):
        audit("--data", "AtomicFiles", "--data.data_dir", str(folder), *LEXICAL)
    assert "no item texts" in " ".join(capsys.readouterr().err.split())


def test_the_page_holds_every_judged_interaction() -> None:
    audit(*SHOP, *LEXICAL, "--sample", "200")
    page = Path("audit.html").read_text()
    embedded = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert embedded
    json.loads(embedded[1])


def test_a_fit_on_files_of_your_own_lets_the_audit_set_the_rate() -> None:
    folder = str(atomic(Path("shop")))
    arguments = ["--config", "atomic", "--config", "methods/auto", "--data.data_dir", folder, "--trainer.max_epochs=2"]
    command.main(["fit", *arguments, "--data.split_ratios", "[0.8, 0.1, 0.1]", "--denoising.ramp_epochs=1"])
    with Path("runs/version_0/metrics.csv").open() as file:
        rates = [float(row["denoise/drop_rate"]) for row in csv.DictReader(file) if row["denoise/drop_rate"]]
    assert 0.05 < rates[-1] < 0.35  # a fifth is by chance, four of five of which are of another topic
