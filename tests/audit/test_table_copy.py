"""Clean copies of the tables that TableData reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_audits import made_audit

from llmhd_pl import __main__ as command
from llmhd_pl.audit.clean_copy import check_folder, write_clean_copy
from llmhd_pl.audit.findings import Audit
from llmhd_pl.datamodules import TableData
from llmhd_pl.datamodules.tabular import Tabular

CHANCES = {("001", "1"): 0.75, ("1", "x, y"): 1.0, ("b", "1"): float("nan")}
ROWS = {
    "user_id": ["001", "1", "001", "1.0", "001", "b"],
    "note": ["", 'say "hi"', None, " a", "again", "two\nlines"],
    "rating": [5.0, 4.0, 1.0, 5.0, 3.0, 3.0],
    "item_id": ["1", "x, y", "2", "1", "1", "1"],
}
WEIGHTS = [0.25, 1e-6, 1.0, 0.75, 0.25, 1.0]  # below the threshold: in no split; the first pair twice
ALL: Any = (1, 0, 0)


def audit_of(data: TableData) -> Audit:
    """The chance of each pair that CHANCES names, and 0.25 of the others."""
    data.setup("fit")
    users, items = data.train_users.numpy(), data.train_items.numpy()
    found = data.interactions
    assert found.user_names is not None and found.item_names is not None
    names = [(found.user_names[user], found.item_names[item]) for user, item in zip(users, items, strict=True)]
    chance = np.array([CHANCES.get(pair, 0.25) for pair in names])
    return made_audit(data, chance)


def of(given: Any, **arguments: Any) -> TableData:
    return TableData(given, rating="rating", rating_threshold=2, split_ratios=ALL, **arguments)


def test_parquet_keeps_its_types_and_its_rows(tmp_path: Path) -> None:
    table = pa.table(ROWS).set_column(1, "note", pa.array(ROWS["note"]).dictionary_encode())
    table = table.append_column("vector", pa.array([[1.5]] * 6))
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    data = of(tmp_path / "x.parquet")
    files = write_clean_copy(tmp_path / "copy", audit_of(data), data)
    assert [path.name for path in files] == ["suspicious.parquet", "x.parquet"]
    found = pq.read_table(tmp_path / "copy" / "x.parquet")
    assert found.drop_columns("weight").equals(table) and found["weight"].to_pylist() == WEIGHTS
    drop = audit_of(data).chance == 0.75
    write_clean_copy(tmp_path / "less", audit_of(data), data, drop)
    assert pq.read_table(tmp_path / "less" / "x.parquet").equals(table.take([1, 2, 3, 5]))
    again = of(tmp_path / "copy" / "x.parquet")
    assert again.interactions.train.tolist() == data.interactions.train.tolist()


def test_csv_keeps_its_texts(tmp_path: Path) -> None:
    lines = ['"user_id",note,rating,item_id', "001,,5,1", '1,"say ""hi""",4.0,"x, y"', "", "001,NA,1,2", "1.0, a,5,1"]
    lines += ["001,again,3e0,1", 'b,"two\r\nlines",3,1']
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    data = of(str(tmp_path / "x.csv"))
    write_clean_copy(tmp_path / "copy", audit_of(data), data)
    expected = [
        "user_id,note,rating,item_id,weight",
        "001,,5,1,0.25",
        '1,"say ""hi""",4.0,"x, y",1e-06',
        "001,NA,1,2,1",
    ]
    expected += ["1.0, a,5,1,0.75", "001,again,3e0,1,0.25", 'b,"two\r\nlines",3,1,1', ""]
    assert (tmp_path / "copy" / "x.csv").read_bytes().decode() == "\n".join(expected)
    write_clean_copy(tmp_path / "less", audit_of(data), data, audit_of(data).chance == 0.75)
    left = (tmp_path / "less" / "x.csv").read_bytes().decode().split("\n")
    assert left[1:4] == ['1,"say ""hi""",4.0,"x, y"', "001,NA,1,2", "1.0, a,5,1"]


def test_a_data_frame_becomes_parquet_and_the_items_come_along(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": ["1", "2", "x, y"], "title": ["a", "b", None]})
    data = of(pd.DataFrame(ROWS, index=list("uvwxyz")), items=items)
    write_clean_copy(tmp_path / "copy", audit_of(data), data)
    found = pq.read_table(tmp_path / "copy" / "interactions.parquet")
    assert found["weight"].to_pylist() == WEIGHTS and found.to_pandas()["note"][1] == 'say "hi"'
    assert pq.read_table(tmp_path / "copy" / "items.parquet").to_pydict() == {
        "item_id": ["1", "2", "x, y"],
        "title": ["a", "b", None],
    }
    items.to_csv(tmp_path / "books.csv", index=False)
    data = of(pd.DataFrame(ROWS), items=tmp_path / "books.csv")
    write_clean_copy(tmp_path / "other", audit_of(data), data)
    assert (tmp_path / "other" / "books.csv").read_bytes() == (tmp_path / "books.csv").read_bytes()


def test_what_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    frame = pd.DataFrame(ROWS).assign(weight=1)
    with pytest.raises(ValueError, match="already has a column 'weight'"):
        check_folder(tmp_path / "copy", of(frame))
    check_folder(tmp_path / "copy", of(frame), weights=False)
    with pytest.raises(ValueError, match="noise_ratio is 0"):
        check_folder(tmp_path / "copy", of(frame, noise_ratio=0.1), weights=False)
    for folder in (tmp_path, tmp_path / "a"):
        pd.DataFrame(ROWS).to_csv(folder / "x.csv", index=False)
    with pytest.raises(ValueError, match=r"both in files named x\.csv"):
        check_folder(tmp_path / "copy", of(tmp_path / "x.csv", items=tmp_path / "a" / "x.csv"))


def test_a_file_that_changes_meanwhile_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, write in (("x.csv", pd.DataFrame.to_csv), ("x.parquet", pd.DataFrame.to_parquet)):
        path = tmp_path / name
        write(pd.DataFrame(ROWS), path, index=False)
        data = of(path)
        audit, read = audit_of(data), Tabular.interactions

        def read_and_grow(*arguments: Any, read: Any = read, path: Path = path, write: Any = write) -> Any:
            found = read(*arguments)
            write(pd.concat([pd.DataFrame(ROWS)] * 2), path, index=False)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Tabular, "interactions", read_and_grow)
            with pytest.raises(ValueError, match=f"{name} has changed since it was read"):
                write_clean_copy(tmp_path / "copy", audit, data)
        pd.DataFrame(ROWS).iloc[1:].pipe(write, path, index=False)
        fewer = of(path)
        fewer.setup()
        pd.DataFrame(ROWS).iloc[2:].pipe(write, path, index=False)
        with pytest.raises(ValueError, match=f"{name} has changed since it was read"):
            write_clean_copy(tmp_path / "copy", audit_of(fewer), fewer)
        assert not (tmp_path / "copy").exists()


def test_the_command_line_writes_a_copy_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    topics = ("cooking pasta", "gothic horror", "garden roses", "space travel", "tax law")
    items = pd.DataFrame({"isbn": range(100), "title": [f"{topics[item % 5]} {item}" for item in range(100)]})
    users = np.repeat(np.arange(200), 15)
    bought = np.where(rng.random(3000) < 0.2, rng.integers(100, size=3000), rng.integers(20, size=3000) * 5 + users % 5)
    pd.DataFrame({"reader": users, "isbn": bought}).drop_duplicates().to_parquet("x.parquet")
    items.to_parquet("items.parquet")
    tables = ["--data", "TableData", "--data.interactions", "x.parquet", "--data.items", "items.parquet"]
    tables += ["--data.user", "reader", "--data.item", "isbn", "--data.split_ratios", "[1, 0, 0]"]
    command.main(["audit", *tables, "--scorer", "LexicalScorer", "--references", "30", "--out", "copy"])
    copy = pd.read_parquet("copy/x.parquet")
    assert copy.drop(columns="weight").equals(pd.read_parquet("x.parquet"))
    right = copy["reader"] % 5 == copy["isbn"] % 5
    assert copy["weight"][~right].mean() < 0.3 < 0.7 < copy["weight"][right].mean()
    again = TableData("copy/x.parquet", "copy/items.parquet", "reader", "isbn", split_ratios=ALL)
    assert len(again.interactions.train) == len(copy)
