"""RecTools' SASRec and BERT4Rec, with the library's Lightning module as it is, denoised.

    python examples/rectools_sequences.py

Needs RecTools 0.17 (tests/clients/requirements.txt says how to install it). The lines that denoising added are marked:
the row number of each interaction travels as an extra column through RecTools' sorting, filtering and cutting into the
batch, where it names the losses; the weights go into ``yw``, which RecTools multiplies its losses by anyway.
"""

from functools import partial
from typing import Any

import pandas as pd
import torch
from comparison import Arm, Clicks, Outcome, main, quiet, ranking
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.transformers.bert4rec import BERT4RecDataPreparator
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

from llmhd_pl import pad_samples


class WithSamples:  # <- added, as it stands: a mixin for the data preparator of either model
    """Adds the row number of the interaction behind each target to the batch."""

    extra_cols = property(lambda self: ["sample"], lambda self, columns: None)  # <- the column that is kept

    def _collate_fn_train(self, batch: list[Any]) -> dict[str, torch.Tensor]:  # <-
        made, rows = super()._collate_fn_train(batch), [extras["sample"] for *_, extras in batch]  # <-
        # Not every place is a target.
        return made | {"sample": pad_samples(rows, made["y"].shape[1]).where(made["y"] != 0, -1)}  # <-


class SASRecPreparator(WithSamples, SASRecDataPreparator):  # <-
    """SASRec's batches with samples."""


class BERT4RecPreparator(WithSamples, BERT4RecDataPreparator):  # <- one of the two
    """BERT4Rec's batches with samples."""


MODELS = {"SASRec": (SASRecModel, SASRecPreparator), "BERT4Rec": (BERT4RecModel, BERT4RecPreparator)}


def train(
    clicks: Clicks, denoise: Arm, epochs: int, seed: int, model: str = "SASRec", loss: str = "softmax", length: int = 50
) -> Outcome:
    """Train a model, and recommend."""
    seed_everything(seed, verbose=False)
    table = pd.DataFrame(
        {
            Columns.User: clicks.users,
            Columns.Item: clicks.items,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(clicks.times.numpy(), unit="s"),
        }
    )
    table["sample"] = range(len(table))  # <-
    dataset = Dataset.construct(table, keep_extra_cols=True)  # <- keep_extra_cols

    def trainer() -> Trainer:
        # A seventh of the clicks is masked in each epoch: decisions about the others stay for 15.
        window = 15 if model == "BERT4Rec" else 5
        callbacks = denoise(users=clicks.users, items=clicks.items, weight_key="yw", window=window)  # <-
        return Trainer(max_epochs=epochs, callbacks=callbacks, **quiet())

    kind, preparator = MODELS[model]
    recommender = kind(
        n_factors=32, n_blocks=1, n_heads=1, session_max_len=length, batch_size=16, lr=0.01, loss=loss, n_negatives=16,
        get_trainer_func=trainer,
        data_preparator_type=preparator,  # <-
    )  # fmt: skip
    recommender.fit(dataset)
    found = recommender.recommend(range(clicks.num_users), dataset, k=10, filter_viewed=True)
    top = torch.full((clicks.num_users, 10), -1)
    user, rank, item = (torch.from_numpy(found[name].to_numpy()) for name in (Columns.User, Columns.Rank, Columns.Item))
    top[user, rank - 1] = item
    # RecTools trains with a copy of the trainer, so the callbacks are those of the copy.
    return Outcome(ranking(top, clicks), recommender.fit_trainer.callbacks, clicks.noise)


CLIENTS = {
    f"{model}, {loss}": partial(train, model=model, loss=loss)
    for model, loss in (("SASRec", "softmax"), ("SASRec", "BCE"), ("BERT4Rec", "softmax"))
}

if __name__ == "__main__":
    main("examples/rectools_sequences.py", CLIENTS, epochs=15)
