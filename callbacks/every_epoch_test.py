"""EveryEpochTest: the test metrics of every epoch, to say what it costs to choose one by validation."""

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from llmhd_pl.backbones.base import Backbone
from llmhd_pl.metrics import rank_hits


class EveryEpochTest(Callback):
    """Logs ``every_epoch/...``, the test metrics after each epoch, beside the validation metrics.

    For reports on model selection (PAPER.md, "Model selection matters more than the method"). Nothing may be chosen by
    what it logs: checkpoint and early stopping go by validation.
    """

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Backbone) -> None:  # type: ignore[override]
        """Rank the catalog for the test users, with the embeddings that validation has just used."""
        if trainer.sanity_checking:
            return
        metrics = pl_module.test_metrics.clone(prefix="every_epoch/")
        for batch in trainer.datamodule.test_dataloader():  # type: ignore[attr-defined]
            batch = {name: tensor.to(pl_module.device) for name, tensor in batch.items()}
            hits = rank_hits(pl_module.rank(batch["user"]), batch["seen"], batch["relevant"], pl_module.ks[-1])
            metrics.update(*hits)
        pl_module.log_dict(metrics.compute())
