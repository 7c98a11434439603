"""The grid: real ``llmhd fit`` processes, finished runs skipped, broken ones repeated, tables of what is there."""

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from titles import TITLES

from llmhd_pl import bundled, compare
from llmhd_pl.cli import main as command_line
from llmhd_pl.compare import Grid, records, run, tables

REPOSITORY = Path(__file__).parent.parent
SMALL = {
    "num_readers": 60, "num_books": 80, "num_topics": 4, "books_per_reader": 12, "batch_size": 256,
}  # fmt: skip


def grid(folder: Path, **changes: Any) -> Path:
    base = {"denoising": None, "data": {"init_args": SMALL}, "trainer": {"max_epochs": 2, "accelerator": "cpu"}}
    (folder / "small.yaml").write_text(yaml.safe_dump(base))
    content = {
        "output": str(folder / "out"),
        "base": [str(REPOSITORY / "configs" / "quickstart.yaml"), str(folder / "small.yaml")],
        "seeds": [0, 1],
        "noise_ratios": [0.1],
        "backbones": {"LightGCN": {}},
        "methods": {"BPR": {}, "oracle": {"trainer": {"callbacks": [{"class_path": "llmhd_pl.callbacks.Oracle"}]}}},
        "reference": "BPR",
    } | changes
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


GRIDS = bundled.names(bundled.GRIDS)
MEASURED = sorted(set(GRIDS) - {"atomic"} - {name for name in GRIDS if name.startswith("not-run/")})


@pytest.mark.parametrize("name", GRIDS)
def test_the_grids_of_the_repository(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    loaded = Grid.load(name)
    runs = loaded.runs()
    assert len({run.name for run in runs}) == len(runs)
    assert all(loaded.configuration(run) for run in runs)  # every file that it names is there
    assert loaded.reference in (None, *loaded.methods)
    missing = compare.unfinished(loaded)  # what has been measured is of this configuration
    assert name not in MEASURED or not missing  # and all of it has been measured


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_that_was_never_run_says_so(name: str) -> None:
    first = (bundled.GRIDS / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# Never run") == name.startswith("not-run/")


@pytest.mark.parametrize("name", sorted(set(GRIDS) - set(MEASURED)))
def test_the_cells_of_a_grid_that_was_never_run_are_understood(name: str, tmp_path: Path, parser: Any) -> None:
    loaded = Grid.load(name)
    first = loaded.runs()[0]
    cells = {(cell.method, cell.backbone): cell for cell in loaded.runs()}
    for cell in cells.values():
        if first.method != cell.method and first.backbone != cell.backbone:
            continue  # each method and each backbone once
        parsed = parser.parse_args(["fit", *run.arguments(loaded, cell, tmp_path, 0)]).fit
        assert parsed.model.class_path.endswith(cell.backbone if cell.method != "RGCF" else "RGCF")
        assert (parsed.denoising is None) == (cell.method.split(",")[0] in ("BPR", "BCE", "RGCF"))


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The parser of the command line."""
    small = ["--data.num_readers=60", "--data.num_books=80", "--data.num_topics=4"]
    root = f"--trainer.default_root_dir={tmp_path_factory.mktemp('parser')}"
    quiet = ["--trainer.logger=false", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", root]
    return command_line(["fit", "--config=quickstart", "--denoising=null", *small, *quiet]).parser


def test_what_was_measured_is_recorded_once_and_whole() -> None:
    files = sorted((REPOSITORY / "results").glob("*.jsonl"))
    assert sorted(path.stem for path in files) == sorted([*MEASURED, "negatives"])  # the latter is a study's
    lines = [(path.stem, line) for path in files for line in records.read(path)]
    assert len(lines) == 585
    assert len({(name, *(line[key] for key in RUN)) for name, line in lines}) == len(lines)
    for _, line in lines:
        assert line.keys() >= {*RUN, *ORIGIN, *compare.METRICS, "valid ndcg@10", "chosen epoch", "epochs"}
    assert not [path for path in (REPOSITORY / "results").iterdir() if path.is_dir()]


RUN = ("method", "backbone", "noise_ratio", "seed")
ORIGIN = ("configuration", "data", "commit", "versions", "device", "seconds")


def start(path: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    environment = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "llmhd_pl.compare", "--config", str(path), *more],
        cwd=path.parent, env=os.environ | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def folder_of(path: Path, name: str) -> Path:
    """The folder with the logs of a run."""
    (folder,) = (path.parent / "runs" / "compare" / path.stem).glob(f"{name}-*")
    return folder


def test_a_grid_is_run_once_and_its_broken_runs_again(tmp_path: Path) -> None:
    path = grid(tmp_path, seeds=[0], arguments=["--trainer.callbacks+=llmhd_pl.callbacks.EveryEpochTest"])
    first = start(path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "oracle" in first.stdout and "grid.md" in first.stdout
    out = tmp_path / "out"
    names = ["bpr-lightgcn-noise0.1-seed0", "oracle-lightgcn-noise0.1-seed0"]
    results = records.read(out / "grid.jsonl")
    assert [result["method"] for result in results] == ["BPR", "oracle"]
    assert results[0]["ndcg@10"] > 0 and results[0]["epochs"] == 2
    assert results[0]["ndcg@10"] != results[1]["ndcg@10"]  # the method was laid over the base
    assert all(result["best ndcg@10"] >= result["ndcg@10"] for result in results)
    table = pd.read_csv(out / "grid.csv", dtype=str)
    assert table["method"].tolist() == ["BPR", "oracle"]
    assert table["ndcg@10"][0] == f"{results[0]['ndcg@10']:.4f}".replace("0.", ".")
    gain = results[1]["ndcg@10"] / results[0]["ndcg@10"] - 1
    assert table["gain"][1] == f"{gain:+.1%}"
    assert table["best epochs"].tolist() == [f"{result['best epoch']:g}" for result in results]
    assert (out / "grid.md").read_text().count("\n") == 4
    assert r"\begin{tabular}" in (out / "grid.tex").read_text()
    assert (out / "grid.png").read_bytes().startswith(b"\x89PNG")
    for result in results:
        assert result.keys() >= {*RUN, *ORIGIN}
        assert (result["commit"] or "").removesuffix("-dirty") == head()
        assert result["versions"].keys() >= {"python", "llmhd-pl", "torch", "pytorch-lightning"}
        assert result["device"] and result["seconds"] > 1 and result["data"] is None

    lines = (out / "grid.jsonl").read_text().splitlines(keepends=True)
    (out / "grid.jsonl").write_text(lines[0])
    log = (folder_of(path, names[0]) / "log.txt").read_text()
    again = start(path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (folder_of(path, names[0]) / "log.txt").read_text() == log  # not run again
    repeated = records.read(out / "grid.jsonl")[1]
    assert repeated["seconds"] > 1  # from the beginning, and not from the last checkpoint
    assert repeated | {"seconds": results[1]["seconds"]} == results[1]

    other = path.with_name("other.yaml")  # another grid in the same output folder has the same runs
    other.write_text(path.read_text().replace("BPR", "plain"))
    assert start(other).returncode == 0
    assert not (out / "other.jsonl").exists()
    assert pd.read_csv(out / "other.csv", dtype=str)["ndcg@10"].tolist() == table["ndcg@10"].tolist()


def head() -> str:
    return subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def test_an_empty_folder_needs_no_more_than_a_grid(tmp_path: Path) -> None:
    """Names of bundled files, what a config would contain, and arguments of the command line."""
    inline = {"denoising": None, "data": {"init_args": SMALL}, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}
    content = {
        "output": "results",
        "base": ["quickstart", inline],
        "seeds": [3],
        "noise_ratios": [0.0],
        "backbones": {"MF": "backbones/mf"},
        "methods": {"T-CE": ["methods/t-ce", {"denoising": {"init_args": {"ramp_iterations": 5}}}]},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [sys.executable, "-m", "llmhd_pl", "compare", "--config", "tiny.yaml", "--", "--data.batch_size", "128"],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = records.read(tmp_path / "results" / "tiny.jsonl")
    assert (record["method"], record["backbone"], record["seed"], record["epochs"]) == ("T-CE", "MF", 3, 1)
    saved = yaml.safe_load((folder_of(tmp_path / "tiny.yaml", "t-ce-mf") / "start0" / "config.yaml").read_text())
    assert saved["seed_everything"] == 3 and saved["data"]["init_args"]["batch_size"] == 128
    assert saved["model"]["init_args"]["l2"] == 0.01 and saved["model"]["init_args"]["objective"] == "bce"
    assert saved["denoising"]["init_args"]["ramp_iterations"] == 5


def test_results_of_another_configuration_are_not_mixed_in(tmp_path: Path) -> None:
    path = grid(tmp_path, seeds=[0])
    loaded = Grid.load(path)
    done = loaded.runs()[1]
    record = vars(done) | {"configuration": loaded.configuration(done), "data": None}
    records.append(tmp_path / "out" / "grid.jsonl", record)
    assert compare.unfinished(loaded) == [loaded.runs()[0]]
    methods = {"BPR": {}, "oracle": {}}
    for changes in ({"methods": methods}, {"arguments": ["--model.l2=0"]}):
        with pytest.raises(ValueError, match=r"grid\.jsonl has oracle.*seed0 with another configuration"):
            compare.unfinished(Grid.load(grid(tmp_path, seeds=[0], **changes)))
    with pytest.raises(ValueError, match="another configuration"):
        compare.unfinished(Grid.load(path, ["--data.data_dir=other"]))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 3}}))
    with pytest.raises(ValueError, match="another configuration"):
        compare.unfinished(loaded)


def test_the_place_of_the_data_is_not_part_of_the_configuration(tmp_path: Path) -> None:
    here, run = Grid.load("yelp"), Grid.load("yelp").runs()[0]
    for more in (["--data.data_dir=/elsewhere/yelp"], ["--data.init_args.data_dir", "/elsewhere/yelp"]):
        there = Grid.load("yelp", more)
        assert there.configuration(run) == here.configuration(run) and there.data(run) == here.data(run) == "yelp"
    other = Grid.load("yelp", ["--data.data_dir", "yelp-2021"])
    assert other.configuration(run) == here.configuration(run) and other.data(run) == "yelp-2021"
    more = ["--model.l2", "0.1", "--data.data_dir", "yelp"]
    assert Grid.load("yelp", more).configuration(run) != here.configuration(run)
    assert len({here.configuration(run) for run in here.runs()}) == len(here.runs())  # seed and noise count


def test_what_is_in_a_further_configuration_counts(tmp_path: Path) -> None:
    more, hashes = tmp_path / "more.yaml", []
    for rate in (0.001, 0.1):
        more.write_text(f"model: {{init_args: {{learning_rate: {rate}}}}}  # a comment does not count\n")
        for arguments in (["--config", str(more)], [f"--config={more}"]):
            loaded = Grid.load("yelp", arguments)
            hashes.append(loaded.configuration(loaded.runs()[0]))
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_the_data_folder_of_a_further_configuration_counts(tmp_path: Path) -> None:
    """The last one that is named, wherever it is named, as ``llmhd fit`` takes it."""
    files = {}
    for month in ("jan", "feb"):
        files[month] = str(tmp_path / f"{month}.yaml")
        Path(files[month]).write_text(f"data: {{init_args: {{data_dir: data/{month}}}}}\n")
    (tmp_path / "rate.yaml").write_text("model: {init_args: {learning_rate: 0.1}}\n")
    run, here = Grid.load("yelp").runs()[0], Grid.load("yelp")
    for more, name in (
        (["--config", files["feb"]], "feb"),
        (["-c", files["feb"]], "feb"),
        (["--config", files["jan"], f"--config={files['feb']}"], "feb"),
        (["--data.data_dir=data/jan", "--config", files["feb"]], "feb"),
        (["--config", files["feb"], "--data.data_dir=data/jan"], "jan"),
    ):
        there = Grid.load("yelp", more)
        assert there.data(run) == name and there.configuration(run) == here.configuration(run)
    assert Grid.load("yelp", ["--data.data_dir=jan", "--config", str(tmp_path / "rate.yaml")]).data(run) == "jan"
    assert Grid.load("yelp", ["--config", "ml-100k"]).data(run) == "ml-100k"  # a bundled one
    with pytest.raises(FileNotFoundError, match="There is no file mar"):
        Grid.load("yelp", ["--config", "mar"]).data(run)


def shop(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.inter").write_text(text)
    return folder


def test_files_of_the_data_that_were_replaced_are_noticed(tmp_path: Path) -> None:
    folder, path = shop(tmp_path / "shop", "january"), grid(tmp_path, seeds=[0], methods={"BPR": {}})
    loaded = Grid.load(path, [f"--data.data_dir={folder}"])
    (cell,) = loaded.runs()
    record = vars(cell) | {"configuration": loaded.configuration(cell), "data": "shop"}
    own, other = (tmp_path / "out" / f"{name}.jsonl" for name in ("grid", "other"))
    records.append(own, record | {"data_digest": loaded.data_digest(cell)})
    moved = Grid.load(path, [f"--data.data_dir={shop(tmp_path / 'elsewhere' / 'shop', 'january')}"])
    gone = Grid.load(path, [f"--data.data_dir={tmp_path / 'nowhere' / 'shop'}"])
    assert not compare.unfinished(loaded) and not compare.unfinished(moved) and not compare.unfinished(gone)
    shop(folder, "february")
    with pytest.raises(ValueError, match=r"grid\.jsonl has bpr.* of other data: the files of shop have changed since"):
        compare.unfinished(loaded)
    own.rename(other)  # the records of another grid are then left alone
    assert compare.unfinished(loaded) == [cell] and not compare.unfinished(moved)
    records.append(own, record)  # of an older version, which did not look at the files
    assert not compare.unfinished(loaded)


def test_the_tables_of_the_data_are_part_of_its_digest(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("user_id,item_id\n1,2\n")
    data = {"class_path": "TableData", "init_args": {"interactions": str(tmp_path / "sales.csv")}}
    loaded = Grid.load(grid(tmp_path, base=[{"data": data}]))
    cell = loaded.runs()[0]
    before = loaded.data_digest(cell)
    assert before == loaded.data_digest(cell) is not None
    (tmp_path / "sales.csv").write_text("user_id,item_id\n1,2\n3,4\n")
    assert loaded.data_digest(cell) not in (None, before)
    assert Grid.load("misclicks").data_digest(Grid.load("misclicks").runs()[0]) is None  # made on the spot


def test_a_configuration_changes_no_layer_of_its_grid(tmp_path: Path) -> None:
    data = {"data": {"class_path": "AtomicFiles", "init_args": {"data_dir": "data/shop"}}}
    loaded = Grid.load(grid(tmp_path, base=[data]))
    cell = loaded.runs()[0]
    assert loaded.configuration(cell) == loaded.configuration(cell) and loaded.data(cell) == "shop"
    assert loaded.base == (data,)


def test_a_configuration_may_have_dates(tmp_path: Path) -> None:
    hashes = set()
    for day in (1, 2):
        times = {"data": {"init_args": {"split_times": [dt.date(2026, 3, day), dt.date(2026, 4, 1)]}}}
        loaded = Grid.load(grid(tmp_path, base=[times]))
        hashes.add(loaded.configuration(loaded.runs()[0]))
    assert len(hashes) == 2


def test_how_a_configuration_is_spread_over_files_makes_no_difference(tmp_path: Path) -> None:
    oracle = {"denoising": {"class_path": "NoiseOracle", "init_args": {"graph": True}}}
    split = [{"denoising": {"class_path": "NoiseOracle"}}, {"denoising": {"init_args": {"graph": True}}}]
    hashes = set()
    for method in (oracle, split):
        loaded = Grid.load(grid(tmp_path, methods={"oracle": method}, reference=None))
        hashes.add(loaded.configuration(loaded.runs()[0]))
    assert len(hashes) == 1


def test_a_run_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    loaded = Grid.load(grid(tmp_path))
    assert not any("ckpt_path" in argument for argument in run.arguments(loaded, loaded.runs()[0], tmp_path, 0))
    for name in ("start0", "start1"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    last = tmp_path / "start0" / "checkpoints" / "last.ckpt"  # the second start resumed the first
    last.touch()
    arguments = run.arguments(loaded, loaded.runs()[0], tmp_path, 2)
    assert f"--ckpt_path={last}" in arguments and "--trainer.logger.init_args.version=start2" in arguments


def test_threads_append_without_mixing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "grid.jsonl"
    workers = [
        threading.Thread(target=lambda me=me: [records.append(path, {"who": me, "text": me * 5000}) for _ in range(40)])
        for me in "abcd"
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = records.read(path)
    assert len(lines) == 160 and all(line["text"] == line["who"] * 5000 for line in lines)


@pytest.mark.parametrize("broken", ['{"method": "BPR", "ndc', '{"method": "BPR"}', "[]\n", '{"a": 1}{"b": 2}\n'])
def test_a_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    """The second is what remains of a line that was cut off between its last two bytes."""
    path = tmp_path / "grid.jsonl"
    records.append(path, {"method": "BPR"})
    with path.open("a") as file:
        file.write(broken)
    with pytest.raises(ValueError, match=r"grid\.jsonl, line 2, is not a whole record"):
        records.read(path)


@pytest.mark.parametrize(
    "text", [title for title in TITLES if title.isprintable() or "\u2028" in title or "\x85" in title]
)
def test_a_record_of_any_text_is_one_line(tmp_path: Path, text: str) -> None:
    """Whoever wrote it, ``json`` or an editor: only a line break ends a line."""
    path = tmp_path / "grid.jsonl"
    records.append(path, {"method": text})
    with path.open("ab") as file:
        file.write(json.dumps({"method": text}, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
    assert records.read(path) == [{"method": text}] * 2
    with path.open("ab") as file:
        file.write(b'{"method": "\xff"}\n')
    with pytest.raises(ValueError, match=r"grid\.jsonl, line 3, is not a whole record"):
        records.read(path)


class Fits:
    """Pretends to be ``llmhd fit``: leaves the logs of a short run, or fails after its first checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[Sequence[str]] = []
        self.fail = False
        monkeypatch.setattr(run, "subprocess", self)
        monkeypatch.setattr(run, "commit", lambda: None)

    def run(self, command: Sequence[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        self.started.append(command)
        given = dict(argument.partition("=")[::2] for argument in command)
        folder = Path(given["--trainer.logger.init_args.save_dir"], given["--trainer.logger.init_args.version"])
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "last.ckpt").touch()
        (folder / "metrics.csv").write_text("epoch,step,val/ndcg@10,test/ndcg@10\n0,9,0.3,\n0,9,,0.25\n")
        settings = {"checkpoint": {"monitor": "val/ndcg@10", "mode": "max"}, "trainer": {"accelerator": "cpu"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return subprocess.CompletedProcess(command, returncode=int(self.fail))


def test_runs_of_other_data_or_output_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fits, shops = Fits(monkeypatch), [shop(tmp_path / name, name) for name in ("one", "two")]

    def execute(output: str, folder: Path) -> None:
        path = grid(tmp_path, seeds=[0], methods={"BPR": {}}, output=output)
        loaded = Grid.load(path, [f"--data.data_dir={folder}"])
        compare.execute(loaded, loaded.runs()[0])

    def folders() -> set[Path]:
        return set((tmp_path / "runs" / "compare" / "grid").iterdir())

    execute("out", shops[0])
    (first,) = folders()
    (first / "notes.txt").touch()
    (record,) = records.read(tmp_path / "out" / "grid.jsonl")
    assert record["data"] == "one" and len(record["data_digest"]) == 16
    execute("other", shops[0])
    execute("third", shops[1])
    shop(shops[1], "of another month")
    execute("fourth", shops[1])
    assert len(folders()) == 4 and (first / "notes.txt").exists()

    fits.fail = True
    with pytest.raises(RuntimeError, match=r"bpr.* ended with 1: see runs/compare/grid/bpr.*/log\.txt"):
        execute("fifth", shops[0])
    fits.fail = False
    execute("fifth", shops[0])  # goes on in the same folder
    assert len(folders()) == 5 and any(argument.startswith("--ckpt_path=") for argument in fits.started[-1])
    (tmp_path / "out" / "grid.jsonl").unlink()
    execute("out", shops[0])  # from the beginning
    assert len(folders()) == 5 and not (first / "notes.txt").exists()
    assert not any(argument.startswith("--ckpt_path=") for argument in fits.started[-1])


def test_what_is_finished_already_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = grid(tmp_path, seeds=[0])
    for cell in (loaded := Grid.load(path)).runs():
        record = vars(cell) | dict.fromkeys([*compare.METRICS, "valid ndcg@10", "chosen epoch"], 0.5)
        record |= {"configuration": loaded.configuration(cell), "data": None}
        records.append(tmp_path / "out" / "grid.jsonl", record)
    compare.main(["--config", str(path)])
    assert f"2 of 2 runs are not started: their records are in {tmp_path / 'out'}" in capsys.readouterr().out


def test_an_interruption_starts_no_further_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []

    def execute(_: Grid, cell: Any) -> None:
        started.append(cell)
        time.sleep(0.5)  # the next run has begun when the first one is written about

    def interrupted(_: Grid) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "execute", execute)
    monkeypatch.setattr(compare, "write", interrupted)
    loaded = Grid.load(grid(tmp_path, seeds=[0, 1, 2]))
    with pytest.raises(KeyboardInterrupt):
        compare.execute_all(loaded, loaded.runs())
    assert len(started) <= 2 < len(loaded.runs())
    with pytest.raises(SystemExit) as ended:
        compare.main(["--config", str(tmp_path / "grid.yaml")])
    assert ended.value.code == 130 and "Started again, the command goes on" in capsys.readouterr().out


BEST = {"monitor": "val/ndcg@10", "mode": "max"}


def logs(folder: Path, *starts: str) -> Path:
    for start, text in enumerate(starts):
        (folder / f"start{start}").mkdir()
        (folder / f"start{start}" / "metrics.csv").write_text(text)
    return folder


def test_the_logs_of_a_start_that_was_killed_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    header = "epoch,step,val/ndcg@10,test/ndcg@10\n"
    starts = ["", header + "0,9,0.1,\n1,19,0.4,\n2,29,0.9", header + "1,19,0.2,\n2,29,0.3,\n2,29,,0.25\n"]
    figures = run.measured(logs(tmp_path, *starts), BEST)
    assert figures["ndcg@10"] == 0.25 and figures["valid ndcg@10"] == 0.3 and figures["chosen epoch"] == 2


@pytest.mark.parametrize(
    ("monitor", "text", "expected"),
    [
        (
            BEST,
            "epoch,step,val/ndcg@5,val/ndcg@20,every_epoch/ndcg@20,test/ndcg@5,test/ndcg@20\n"
            "0,9,0.1,0.4,0.5,,\n1,19,0.2,0.3,0.6,,\n1,19,,,,0.1,0.5\n",
            {
                **{"ndcg@5": 0.1, "ndcg@20": 0.5, "valid ndcg@20": 0.4, "chosen epoch": 0, "epochs": 2},
                **{"best epoch": 1, "best ndcg@20": 0.6},
            },
        ),
        (BEST, "epoch,step,train/loss,test/ndcg@10\n0,9,0.5,\n1,19,0.4,\n2,20,,0.3\n", {"ndcg@10": 0.3, "epochs": 2}),
        (
            BEST,
            "epoch,step,val/ndcg@10\n0,4,0.2\n0,9,0.1\n1,14,0.1\n1,19,0.1\n",  # two validations in each epoch
            {"valid ndcg@10": 0.2, "chosen epoch": 0, "epochs": 2},
        ),
        (
            {"monitor": "val/regret", "mode": "min"},
            "epoch,step,val/ndcg@10,val/regret,test/ndcg@10\n0,9,0.9,3,\n1,19,0.1,2,\n2,20,,,0.3\n",
            {"ndcg@10": 0.3, "valid regret": 2, "chosen epoch": 1, "epochs": 2},
        ),
    ],
)
def test_what_the_fit_watched_is_read_and_what_is_missing_left_out(
    tmp_path: Path, monitor: dict[str, str], text: str, expected: dict[str, float]
) -> None:
    assert run.measured(logs(tmp_path, text), monitor) == expected


def test_a_run_without_any_figures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"neither test nor validation metrics: .* Give the data a test split"):
        run.measured(logs(tmp_path, "epoch,step,train/loss\n0,9,0.5\n"), BEST)


@pytest.mark.parametrize(
    ("figures", "columns"),
    [
        (
            {"recall@5": 0.1, "recall@20": 0.3, "ndcg@5": 0.1, "ndcg@20": 0.2, "valid ndcg@20": 0.3},
            ["recall@5", "recall@20", "ndcg@5", "ndcg@20", "valid ndcg@20"],
        ),
        ({"recall@10": 0.3, "recall@20": 0.3, "ndcg@10": 0.1, "ndcg@20": 0.2}, ["recall@10", "ndcg@10"]),
        ({"valid ndcg@10": 0.3}, ["valid ndcg@10"]),
    ],
)
def test_tables_have_the_metrics_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], figures: dict[str, float], columns: list[str]
) -> None:
    loaded = Grid.load(grid(tmp_path))
    for cell in loaded.runs():
        record = vars(cell) | figures | {"configuration": loaded.configuration(cell), "data": None}
        records.append(tmp_path / "out" / "grid.jsonl", record)
    short = compare.write(loaded)
    assert short.columns.tolist() == ["noise", "backbone", "method", "seeds", *columns, "gain", "p"]
    assert short["gain"].tolist() == ["", "+0.0%"] and short["p"].tolist() == ["", ""]  # all seeds are the same
    assert "nan" not in (tmp_path / "out" / "grid.md").read_text()
    assert (tmp_path / "out" / "grid.png").is_file()
    tables.show(short)
    assert tables.main_metric(short) in capsys.readouterr().out


def test_names_of_methods_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["[/off]", "[bold]a[/bold]"]
    columns = ["noise", "backbone", "seeds", "recall@10", "ndcg@10", "gain", "p"]
    tables.show(pd.DataFrame([{"method": name} | dict.fromkeys(columns, "1") for name in names]))
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


@pytest.mark.parametrize(("methods", "height"), [(4, 675), (40, 40 * 30)])  # pixels; a line of text takes 30
def test_the_names_in_a_picture_do_not_overlap(tmp_path: Path, methods: int, height: int) -> None:
    names = [f"method {number}" for number in range(methods)]
    runs = pd.DataFrame({"method": names, "backbone": "MF", "noise_ratio": 0.2, "ndcg@10": 0.1})
    tables._plot(runs, tmp_path / "picture.png")
    header = (tmp_path / "picture.png").read_bytes()[:24]
    assert int.from_bytes(header[20:24], "big") >= height


def test_a_run_that_fails_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    wrong = {"trainer": {"callbacks": [{"class_path": "llmhd_pl.callbacks.VariancePruning"}]}}  # without the recorder
    done = start(grid(tmp_path, seeds=[0], methods={"wrong": wrong, "BPR": {}}))
    assert done.returncode != 0
    assert "1 of 2 runs failed" in done.stderr
    assert "log.txt. RuntimeError: VariancePruning" in " ".join(done.stdout.split())
    folder = folder_of(tmp_path / "grid.yaml", "wrong-lightgcn-noise0.1-seed0")
    assert "SampleRecorder" in (folder / "log.txt").read_text()
    (record,) = records.read(tmp_path / "out" / "grid.jsonl")
    assert record["method"] == "BPR"


def test_what_is_excluded_is_not_run(tmp_path: Path) -> None:
    exclude = [{"method": "oracle", "backbone": "MF"}]
    runs = Grid.load(grid(tmp_path, seeds=[0], backbones={"LightGCN": {}, "MF": {}}, exclude=exclude)).runs()
    assert [(run.backbone, run.method) for run in runs] == [("LightGCN", "BPR"), ("LightGCN", "oracle"), ("MF", "BPR")]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"methods": None}, ": key 'methods' is missing"),
        ({"method": {}}, ": key 'method' is unknown; the keys are argum"),
        ({"reference": "BPRR"}, ": reference is 'BPRR', but the methods are BPR, oracle"),
        (
            {"exclude": [{"method": "oracle", "backbone": "MF"}]},
            ": exclude has .*'MF'.*, which is no method and backbone",
        ),
        (
            {"methods": {"BPR": {}, "T-CE": "configs/t-ce.yaml"}},
            " names configs/t-ce.yaml, which is no file. Paths are",
        ),
        ({"base": ["nowhere.yaml"]}, " names nowhere.yaml, which is no file"),
        ({"seeds": 0}, ": seeds is 0; it must be a list"),
        ({"seeds": [0, 1.5]}, ": seeds has 1.5, which is not a whole number"),
        ({"seeds": [True]}, ": seeds has True, which is not a whole number"),
        ({"methods": ["BPR"]}, ": methods is .*; it must map names to"),
        ({"methods": {"BPR": 3}}, ": methods, BPR, has 3, which is not a text or a mapping"),
        ({"processes": 0}, ": processes is 0; it must be"),
        (
            {"arguments": ["--data.noise_ratio", "0.2"]},
            ": noise_ratio is set to 0.2, but a grid .* into noise_ratios",
        ),
        ({"arguments": ["--seed_everything=9"]}, ": seed_everything is set to 9, but a grid .* it into seeds"),
        ({"methods": {"BPR": {"data": {"init_args": {"noise_ratio": 0.3}}}}}, ": noise_ratio is set to 0.3, but"),
        (
            {"arguments": ["--data={class_path: Yelp, init_args: {noise_ratio: 0.5}}"]},
            ": noise_ratio is set to 0.5",
        ),
        ({"base": ["quickstart", {"seed_everything": 5}]}, ": seed_everything is set to 5, but a grid sets it"),
    ],
)
def test_a_wrong_grid_is_refused_by_file_and_key(tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=f"grid.yaml{error}"):
        Grid.load(grid(tmp_path, **changes))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = grid(tmp_path)
    path.write_text(path.read_text().replace("methods:\n", "methods:\n  BPR: methods/t-ce\n"))
    with pytest.raises(ValueError, match=r"grid.yaml, line \d+: 'BPR' occurs twice. Rename or remove one"):
        Grid.load(path)


def test_the_summary_has_means_deviations_and_a_paired_test() -> None:
    table = pd.DataFrame(
        [
            {
                "method": method,
                "backbone": "B",
                "noise_ratio": 0.2,
                "seed": seed,
                "chosen epoch": 3.0,
                "valid ndcg@10": 0.2,
            }
            | dict.fromkeys(compare.METRICS, value + 0.01 * seed)
            for method, value in (("plain", 0.1), ("ours", 0.121))
            for seed in (0, 1, 2)
        ]
    )
    table.loc[5, "ndcg@10"] += 0.003
    plain, ours = compare.summary(table, "plain").to_dict("records")
    assert plain["ndcg@10"] == ".1100 ± .0100" and plain["gain"] == ""
    assert ours["ndcg@10"] == ".1320 ± .0115" and ours["gain"] == "+20.0%"
    assert ours["p"] == "0.002"  # differences .021, .021, .024: t = 22, two degrees of freedom
    assert ours["valid ndcg@10"] == ".2000"
    assert ours["chosen epochs"] == "3, 3, 3" and ours["seeds"] == "3"
    assert "best epochs" not in ours
    for left_out, common in (([1, 5], "+21.0% (1 of 2 seeds)"), ([2], "+20.0% (2 of 3 seeds)")):
        assert compare.summary(table.drop(left_out), "plain").to_dict("records")[1]["gain"] == common


def test_only_the_zero_before_a_point_is_left_out() -> None:
    """What is watched may be a loss above 10."""
    runs = pd.DataFrame({"method": ["BPR"], "backbone": ["MF"], "noise_ratio": [0.0], "seed": [0], "ndcg@10": [0.25]})
    runs["valid train/loss"], runs["chosen epoch"] = 10.0312, 3.0
    (row,) = compare.summary(runs).to_dict("records")
    assert row["valid train/loss"] == "10.0312" and row["ndcg@10"] == ".2500"
