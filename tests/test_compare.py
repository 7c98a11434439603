"""The grid: real ``train.py`` processes, finished runs skipped, broken ones repeated, tables of what is there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from llmhd_pl import compare

REPOSITORY = Path(__file__).parent.parent
SMALL = {
    "num_readers": 60, "num_books": 80, "num_topics": 4, "books_per_reader": 12, "batch_size": 256,
}  # fmt: skip


def grid(folder: Path, **changes: Any) -> Path:
    base = {"data": {"init_args": SMALL}, "trainer": {"max_epochs": 2, "accelerator": "cpu"}}
    (folder / "small.yaml").write_text(yaml.safe_dump(base))
    content = {
        "output": str(folder / "out"),
        "base": [str(REPOSITORY / "configs" / "synthetic-lightgcn.yaml"), str(folder / "small.yaml")],
        "seeds": [0, 1],
        "noise_ratios": [0.1],
        "backbones": {"LightGCN": {}},
        "methods": {"BPR": {}, "oracle": {"trainer": {"callbacks": [{"class_path": "llmhd_pl.callbacks.Oracle"}]}}},
        "reference": "BPR",
    } | changes
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs" / "compare").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_grids_of_the_repository(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    loaded = compare.load(path)
    runs = compare.runs_of(loaded)
    assert len({run.name for run in runs}) == len(runs)
    assert all(compare.configuration(loaded, run) for run in runs)  # every file that it names is there
    assert loaded.get("reference") in (None, *loaded["methods"])
    compare.unfinished(loaded)  # what has been measured is of this configuration


def start(path: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "llmhd_pl.compare", "--config", str(path), *more],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def test_a_grid_is_run_once_and_its_broken_runs_again(tmp_path: Path) -> None:
    path = grid(tmp_path, seeds=[0], arguments=["--trainer.callbacks+=llmhd_pl.callbacks.EveryEpochTest"])
    first = start(path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "oracle" in first.stdout and "grid.md" in first.stdout
    out = tmp_path / "out"
    names = ["bpr-lightgcn-noise0.1-seed0", "oracle-lightgcn-noise0.1-seed0"]
    results = [json.loads((out / name / "result.json").read_text()) for name in names]
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

    (out / names[1] / "result.json").unlink()
    log = (out / names[0] / "log.txt").read_text()
    again = start(path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (out / names[0] / "log.txt").read_text() == log  # not run again
    assert json.loads((out / names[1] / "result.json").read_text()) == results[1]


def test_results_of_another_configuration_are_not_mixed_in(tmp_path: Path) -> None:
    path = grid(tmp_path, seeds=[0])
    loaded = compare.load(path)
    run = compare.runs_of(loaded)[1]
    folder = tmp_path / "out" / run.name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"configuration": compare.configuration(loaded, run)}))
    assert compare.unfinished(loaded) == [compare.runs_of(loaded)[0]]
    for changes in ({"methods": loaded["methods"] | {"oracle": {}}}, {"arguments": ["--model.l2=0"]}):
        with pytest.raises(ValueError, match=r"oracle.*result\.json is the result of another configuration"):
            compare.unfinished(compare.load(grid(tmp_path, seeds=[0], **changes)))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 3}}))
    with pytest.raises(ValueError, match="another configuration"):
        compare.unfinished(loaded)


def test_a_run_that_fails_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    wrong = {"trainer": {"callbacks": [{"class_path": "llmhd_pl.callbacks.VariancePruning"}]}}  # without the recorder
    done = start(grid(tmp_path, seeds=[0], methods={"wrong": wrong, "BPR": {}}))
    assert done.returncode != 0
    assert "1 of 2 runs failed" in done.stderr
    assert "SampleRecorder" in (tmp_path / "out" / "wrong-lightgcn-noise0.1-seed0" / "log.txt").read_text()
    assert (tmp_path / "out" / "bpr-lightgcn-noise0.1-seed0" / "result.json").is_file()


def test_what_is_excluded_is_not_run(tmp_path: Path) -> None:
    exclude = [{"method": "oracle", "backbone": "MF"}]
    runs = compare.runs_of(
        compare.load(grid(tmp_path, seeds=[0], backbones={"LightGCN": {}, "MF": {}}, exclude=exclude))
    )
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
    ],
)
def test_a_wrong_grid_is_refused_by_file_and_key(tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=f"grid.yaml{error}"):
        compare.load(grid(tmp_path, **changes))


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
