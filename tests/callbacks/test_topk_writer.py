import errno
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from pytorch_lightning import Trainer
from titles import TITLES

from llmhd_pl.backbones import MF
from llmhd_pl.callbacks import TopKWriter
from llmhd_pl.datamodules import AtomicFiles, SyntheticCatalog
from llmhd_pl.files import storable


def predict(model: MF, data: Any, path: Path) -> list[Any]:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TopKWriter(str(path))],
    )
    return trainer.predict(model, data) or []


def test_a_row_per_user_and_place(tmp_path: Path) -> None:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10, eval_batch_size=16)
    batches = predict(MF(40, 50, ks=(4,)), data, tmp_path / "new" / "topk.parquet")
    table = pd.read_parquet(tmp_path / "new" / "topk.parquet")
    assert list(table.columns) == ["user", "place", "item", "score"]
    assert table["user"].tolist() == [user for user in range(40) for _ in range(4)]
    assert table["place"].tolist() == [1, 2, 3, 4] * 40
    assert table["item"].tolist() == torch.cat([batch["item"] for batch in batches]).flatten().tolist()
    assert table["score"].tolist() == torch.cat([batch["score"] for batch in batches]).flatten().tolist()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["topk.parquet"]


def test_names_of_the_source_and_no_seen_item(tmp_path: Path, atomic_folder: Path) -> None:
    data = AtomicFiles(str(atomic_folder))
    predict(MF(data.num_users, data.num_items, ks=(1000,)), data, tmp_path / "topk.parquet")
    table = pd.read_parquet(tmp_path / "topk.parquet")
    names = data.interactions.user_names, data.interactions.item_names
    assert names[0] is not None and names[1] is not None
    assert table["user_name"].tolist() == [names[0][user] for user in table["user"]]
    assert table["item_name"].tolist() == [names[1][item] for item in table["item"]]
    known = torch.cat([data.interactions.train, data.interactions.valid]).tolist()
    # K is longer than any user's list of unseen items, so the table holds every unseen pair and no other.
    pairs = set(zip(table["user"], table["item"], strict=True))
    assert len(pairs) == len(table) == data.num_users * data.num_items - len(known)
    assert not pairs & {(user, item) for user, item in known}


def test_an_interrupted_prediction_leaves_nothing(tmp_path: Path) -> None:
    class Broken(MF):
        def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
            if batch_idx == 1:
                raise RuntimeError("the disk is on fire")
            return super().predict_step(batch, batch_idx)

    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10, eval_batch_size=16)
    (tmp_path / "topk.parquet").write_text("the previous result")
    with pytest.raises(RuntimeError, match="fire"):
        predict(Broken(40, 50), data, tmp_path / "topk.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["topk.parquet"]
    assert (tmp_path / "topk.parquet").read_text() == "the previous result"


@pytest.mark.parametrize("titles", [TITLES])
def test_names_of_any_characters_are_written(tmp_path: Path, titles: list[str]) -> None:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10)
    data.setup()
    data.interactions.item_names = [f"{item} {titles[item % len(titles)]}" for item in range(50)]
    predict(MF(40, 50, ks=(4,)), data, tmp_path / "topk.parquet")
    table = pd.read_parquet(tmp_path / "topk.parquet")
    assert table["item_name"].tolist() == [storable(data.interactions.item_names[item]) for item in table["item"]]


def test_a_name_of_csv_makes_csv_with_the_same_rows(tmp_path: Path) -> None:
    data, model = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10, eval_batch_size=16), MF(40, 50, ks=(4,))
    data.setup()
    data.interactions.item_names = [f'{item}, "{TITLES[item % len(TITLES)]}"' for item in range(50)]
    for name in ("topk.parquet", "topk.CSV"):
        predict(model, data, tmp_path / name)
    assert (tmp_path / "topk.CSV").read_text(encoding="utf-8").startswith('"user","place","item","score","item_name"\n')
    read = pyarrow.csv.read_csv(
        tmp_path / "topk.CSV", parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
    )  # fmt: skip
    wanted = pq.read_table(tmp_path / "topk.parquet")
    assert read.cast(wanted.schema).equals(wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["topk.CSV", "topk.parquet"]


@pytest.mark.parametrize("name", ["topk.txt", "topk", "topk.csv.gz", ".csv"])
def test_a_name_that_does_not_say_how_to_write_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match=rf"to folder/{name}: let its name end in .parquet or in .csv"):
        TopKWriter(f"folder/{name}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pyarrow tries once more
def test_a_file_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=rf"{tmp_path}/file/topk.parquet could not be written.*choose another place"):
        predict(MF(40, 50), data, tmp_path / "file" / "topk.parquet")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "topk.parquet"
    for method in ("write_table", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, method, full)
            with pytest.raises(OSError, match=rf"{path} could not be written: No space left on device. Free space"):
                predict(MF(40, 50), data, path)
        assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_no_link_is_followed(tmp_path: Path) -> None:
    path, diary = tmp_path / "topk.parquet", tmp_path / "diary"
    diary.write_text("Dear diary")
    for link in (path, tmp_path / "topk.parquet.part"):
        link.symlink_to(diary)
    predict(MF(40, 50), SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10), path)
    assert diary.read_text() == "Dear diary" and not path.is_symlink() and len(pd.read_parquet(path))
