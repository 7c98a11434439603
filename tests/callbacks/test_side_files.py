"""What is written beside a training neither stops it nor hides what did."""

import errno
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from small_fits import Method, catalog, playback, quiet
from titles import TITLES, shared_titles

from llmhd_pl import report
from llmhd_pl.callbacks import LLMSampleScorer, NoiseAudit, PreferenceUpdater, SampleRecorder, VariancePruning
from llmhd_pl.datamodules import AmazonBooks, AtomicFiles, SyntheticCatalog
from llmhd_pl.denoising.store import CLEAN
from llmhd_pl.llm.lexical import LexicalScorer
from llmhd_pl.llm.preferences import Preferences

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(contradicts itself|ramp_iterations|pairs got no score|does not tell)"
)
EPOCHS = 3


def titled(titles: list[str]) -> SyntheticCatalog:
    data = catalog()
    data.interactions.items[:] = [{"title": titles[item % len(titles)]} for item in range(data.num_items)]
    data.interactions.user_names = [f"u{user}{titles[user % len(titles)]}" for user in range(data.num_users)]
    data.interactions.item_names = [f"i{item}{titles[item % len(titles)]}" for item in range(data.num_items)]
    return data


def fit(folder: Path, data: Any, method: Method, *more: Callback) -> None:
    quiet(folder, *method.callbacks, *more, max_epochs=EPOCHS).fit(playback(data, EPOCHS), data)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("titles", [TITLES, *([title] for title in TITLES), shared_titles() or ["shared/ is not here"]])
def test_a_run_and_its_report_survive_every_title(
    tmp_path: Path, titles: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = titled(titles)
    fit(tmp_path, data, Method(), NoiseAudit())
    for row in rows(tmp_path / "judgements.jsonl"):
        assert row["title"] == titles[row["item"] % len(titles)]
        assert row["user_id"] == data.interactions.user_names[row["user"]]  # type: ignore[index]
    told = [row for row in rows(tmp_path / "preferences.jsonl") if "disliked" in row]
    assert told and all(title in titles for row in told for title in row["disliked"])
    monkeypatch.setattr(report, "plot", lambda *_: "not drawn")
    report.main([str(tmp_path), str(tmp_path)])
    printed = capsys.readouterr().out
    assert "dropped" in printed and all(line.isprintable() for line in printed.split("\n"))


@pytest.mark.parametrize("loader", ["AmazonBooks", "AtomicFiles"])
def test_titles_of_files_reach_the_side_files_through_a_judge_that_reads_them(
    tmp_path: Path, rlmrec_folder: Path, loader: str
) -> None:
    titles = [*(shared_titles() or TITLES), *(f"common words {number} and more" for number in range(60))]
    source = tmp_path / "data"
    source.mkdir()
    data: Any
    if loader == "AmazonBooks":
        for name in ("trn", "val", "tst"):
            (source / f"{name}_mat.pkl").write_bytes((rlmrec_folder / f"{name}_mat.pkl").read_bytes())
        lines = (json.dumps({"item": item, "title": title}) for item, title in enumerate(titles[:60]))
        (source / "items.jsonl").write_text("\n".join(lines) + "\n")
        data = AmazonBooks(str(source))
    else:
        kept = [title for title in titles if not any(mark in title for mark in "\t\r\n\0\ud800\udfff")][:40]
        inter = [f"u{n % 30}\ti{n * 7 % 40}\t5\t{n}" for n in range(600)]
        (source / "x.inter").write_text(
            "\n".join(["user_id:token\titem_id:token\trating:float\ttimestamp:float", *dict.fromkeys(inter)]) + "\n"
        )
        item = ["item_id:token\ttitle:token_seq", *(f"i{n}\t{title}" for n, title in enumerate(kept))]
        (source / "x.item").write_text("\n".join(item) + "\n", encoding="utf-8")
        data = AtomicFiles(str(source))
    data.setup()
    folder = tmp_path / "run"
    callbacks: list[Callback] = [
        SampleRecorder(3),
        VariancePruning(max_drop_rate=0.3, ramp_iterations=4, candidate_fraction=0.6),
        LLMSampleScorer(LexicalScorer(), rule="joint", scored="all"),
        PreferenceUpdater(confidence_epochs=2),
    ]
    quiet(folder, *callbacks, max_epochs=EPOCHS).fit(playback(data, EPOCHS), data)
    judged = rows(folder / "judgements.jsonl")
    texts = data.interactions.items
    assert judged and all(row["title"] == texts[row["item"]].get("title", f"item {row['item']}") for row in judged)


# Files that cannot be written


@pytest.mark.parametrize(
    "in_the_way", [("judgements",), ("preferences",), ("audit",), ("judgements", "preferences", "audit")]
)
def test_a_side_file_that_cannot_be_written_costs_one_warning_and_not_the_training(
    tmp_path: Path, in_the_way: tuple[str, ...]
) -> None:
    files = {
        name: tmp_path / f"{name}.{'npz' if name == 'audit' else 'jsonl'}"
        for name in ("judgements", "preferences", "audit")
    }
    for name in in_the_way:
        files[name].mkdir()
    method = Method()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, catalog(), method, NoiseAudit())
    told = [str(warning.message) for warning in caught if "could not be written" in str(warning.message)]
    assert len(told) == len(in_the_way)
    for name in in_the_way:
        assert sum(f"{files[name]} could not be written" in message for message in told) == 1
    assert all(file.is_file() for name, file in files.items() if name not in in_the_way)
    assert len(method.scorer.revisions) > 0


def test_a_disk_that_is_full_for_a_while_costs_a_warning_and_no_preference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = Preferences.write, []

    def sometimes(self: Preferences, path: Path) -> None:
        calls.append(path)
        if 1 < len(calls) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, path)

    monkeypatch.setattr(Preferences, "write", sometimes)
    method = Method()
    with pytest.warns(UserWarning, match=r"No space left.*tries again after the next epoch") as caught:
        fit(tmp_path, catalog(), method)
    assert sum("tries again" in str(warning.message) for warning in caught) == 1
    assert rows(tmp_path / "preferences.jsonl") == method.llm.judgements.preferences.changes


class Breaks(Callback):
    """Breaks a fit off in its last epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == EPOCHS - 1:
            raise self.error


@pytest.mark.parametrize("blocked", [False, True])
def test_what_broke_a_run_off_is_not_hidden_by_what_cannot_be_written_then(tmp_path: Path, blocked: bool) -> None:
    if blocked:
        (tmp_path / "judgements.jsonl").mkdir()
    error = RuntimeError("the true cause")
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="the true cause") as caught:
        warnings.simplefilter("error", UserWarning)
        fit(tmp_path, titled(TITLES), Method(), Breaks(error))
    notes = getattr(caught.value, "__notes__", [])
    assert caught.value is error
    if blocked:
        assert len(notes) == 1 and f"{tmp_path / 'judgements.jsonl'} could not be written" in notes[0]
    else:
        assert not notes and {row["epoch"] for row in rows(tmp_path / "judgements.jsonl")} == {EPOCHS - 2}


def test_a_run_that_is_broken_off_while_it_asks_tells_of_the_epoch_before(tmp_path: Path) -> None:
    """Its status is then half decided, and belongs to no scores."""
    method, status, data = Method(), [], catalog()
    score = method.scorer.score

    def asked(preferences: Any, pairs: torch.Tensor) -> torch.Tensor:
        if len(status) == 2:
            raise KeyboardInterrupt
        return score(preferences, pairs)

    class Keeps(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            status.append(method.recorder.store.status.clone())

    method.scorer.score = asked  # type: ignore[method-assign]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        quiet(tmp_path, *method.callbacks, Keeps(), max_epochs=EPOCHS).fit(playback(data, EPOCHS), data)
    judged = rows(tmp_path / "judgements.jsonl")
    assert {row["epoch"] for row in judged} == {1} and len(status) == 2
    assert [row["sample"] for row in judged] == (status[-1] != CLEAN).nonzero().flatten().tolist()
