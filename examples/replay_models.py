"""RePlay's SasRec and TwoTower, with the library's modules as they are, denoised.

    python examples/replay_models.py

Needs RePlay 0.22 (tests/clients/requirements.txt says how to install it). RePlay's weighted losses multiply by a
feature of the batch, so nothing but the data changes: the numbers of the training clicks travel as a feature beside
their weights. The lines that denoising added are marked. RePlay works with the ``lightning`` namespace, whose trainer
takes the same callbacks.
"""

from functools import partial
from typing import Any

import torch
from comparison import Arm, Clicks, Outcome, main, quiet, ranking, top_ten
from lightning.pytorch import Trainer, seed_everything
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.loss import CEWeighted
from replay.nn.sequential.sasrec import SasRec
from replay.nn.sequential.twotower import TwoTower
from torch import Tensor
from torch.utils.data import DataLoader

from llmhd_pl import pad_samples

Batch = dict[str, Any]


def batches(clicks: Clicks, length: int, size: int) -> DataLoader[Batch]:
    """The clicks of each user but the last as input, those but the first as targets; padded on the left."""
    rows = clicks.sequences()
    sample = pad_samples([row[1:].tolist() for row in rows], length)
    before = pad_samples([row[:-1].tolist() for row in rows], length)
    known = sample >= 0

    def collate(users: list[int]) -> Batch:
        valid, item = known[users], clicks.items[before[users]].where(before[users] >= 0, clicks.num_items)
        features = {"item_id": item, "weight": valid[..., None].float()}
        features["sample"] = sample[users][..., None]  # <-
        target = clicks.items[sample[users]].where(valid, clicks.num_items)[..., None]
        masks = {"padding_mask": before[users] >= 0, "target_padding_mask": valid[..., None]}
        return {"feature_tensors": features, "positive_labels": target, **masks}

    return DataLoader(range(len(rows)), batch_size=size, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


class Catalog:
    """The items' features for TwoTower: nothing but their numbers."""

    def __init__(self, num_items: int) -> None:
        self.feature_names, self._numbers = ["item_id"], torch.arange(num_items)

    def __getitem__(self, name: str) -> Tensor:
        return self._numbers


def make(clicks: Clicks, model: str, length: int) -> Any:
    """One of RePlay's models with its weighted cross-entropy."""
    feature = TensorFeatureInfo(
        "item_id", is_seq=True, feature_type=FeatureType.CATEGORICAL, feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        embedding_dim=32, cardinality=clicks.num_items, padding_value=clicks.num_items,
    )  # fmt: skip
    given: Batch = {"embedding_dim": 32, "num_heads": 1, "num_blocks": 1, "max_sequence_length": length, "dropout": 0.1}
    if model == "TwoTower":
        made = TwoTower.from_params(TensorSchema([feature]), Catalog(clicks.num_items), **given)
    else:
        made = SasRec.from_params(TensorSchema([feature]), **given)
    made.loss = CEWeighted("weight", ignore_index=clicks.num_items)
    made.loss.logits_callback = made.get_logits
    return made


def train(clicks: Clicks, denoise: Arm, epochs: int, seed: int, model: str = "SasRec", length: int = 50) -> Outcome:
    """Train a model, and recommend."""
    seed_everything(seed, verbose=False)
    module = LightningModule(make(clicks, model, length), OptimizerFactory(learning_rate=0.003))
    sample_key, weight_key = ("feature_tensors", "sample"), ("feature_tensors", "weight")  # <-
    callbacks = denoise(users=clicks.users, items=clicks.items, sample_key=sample_key, weight_key=weight_key)  # <-
    trainer = Trainer(max_epochs=epochs, callbacks=callbacks, **quiet())
    trainer.fit(module, batches(clicks, length, size=16))
    last = pad_samples([row.tolist() for row in clicks.sequences()], length)
    item = clicks.items[last].where(last >= 0, clicks.num_items)
    with torch.no_grad():
        logits = module.eval()({"feature_tensors": {"item_id": item}, "padding_mask": last >= 0})["logits"]
    scores = logits[:, : clicks.num_items]
    return Outcome(ranking(top_ten(scores, clicks), clicks), trainer.callbacks, clicks.noise)  # type: ignore[attr-defined]


CLIENTS = {f"RePlay {model}": partial(train, model=model) for model in ("SasRec", "TwoTower")}

if __name__ == "__main__":
    main("examples/replay_models.py", CLIENTS, epochs=15)
