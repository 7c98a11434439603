"""EveryEpochTest: the test metrics of every epoch, to say what it costs to choose one by validation."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback


class EveryEpochTest(Callback):
    """Logs ``every_epoch/...``, the test metrics after each epoch, beside the validation metrics.

    It is for reports on model selection (docs/paper.md, section 7). Nothing may be chosen by what it logs: checkpoints
    and early stopping go by validation. The module must be a backbone of this package.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the test batches once, so that what users have seen stays on the device between epochs."""
        if stage in ("fit", "validate"):
            self._batches = trainer.datamodule.test_dataloader()  # type: ignore[attr-defined]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank the catalog for the test users, with the embeddings that validation has just used."""
        if trainer.sanity_checking:
            return
        backbone: Any = pl_module
        metrics = backbone.test_metrics.clone(prefix="every_epoch/")
        for batch in self._batches:
            batch = {name: tensor.to(pl_module.device) for name, tensor in batch.items()}
            metrics.update(*backbone.hits(batch))
        pl_module.log_dict(metrics.compute())
