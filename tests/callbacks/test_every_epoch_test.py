from pathlib import Path

import pandas as pd
import pytest
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from small_fits import catalog, quiet

from llmhd_pl.backbones import LightGCN
from llmhd_pl.callbacks import EveryEpochTest


def test_every_epoch_has_the_metrics_that_test_gives_for_its_checkpoint(tmp_path: Path) -> None:
    data, model = catalog(), LightGCN(40, 50, learning_rate=0.05)
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    logger = CSVLogger(tmp_path, name="runs")
    arguments = {"max_epochs": 3, "limit_val_batches": 1.0, "enable_checkpointing": True, "logger": logger}
    trainer = quiet(tmp_path, EveryEpochTest(), keep, **arguments)
    trainer.fit(model, data)
    table = pd.read_csv(tmp_path / "runs" / "version_0" / "metrics.csv").groupby("epoch").last()
    for epoch in range(3):
        (tested,) = trainer.test(model, data, ckpt_path=str(tmp_path / f"epoch={epoch}.ckpt"), verbose=False)
        for name, value in tested.items():
            assert table[name.replace("test/", "every_epoch/")][epoch] == pytest.approx(value, abs=1e-7), (epoch, name)
    assert table["every_epoch/ndcg@10"].nunique() == 3
