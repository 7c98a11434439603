"""WandbLogger that needs no account."""

from typing import Any

from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger


class WandbLogger(LightningWandbLogger):
    """Lightning's ``WandbLogger``, which logs offline if no API key is configured.

    Args:
        project: The name of the project.
        offline: Whether to log into ``./wandb`` in any case; ``wandb sync`` uploads later.
        **arguments: All other arguments of Lightning's class.
    """

    def __init__(self, project: str = "llmhd-pl", offline: bool = False, **arguments: Any) -> None:
        import wandb

        if not offline and not wandb.login(prompt=False, verify=False):
            wandb.teardown()  # it remembers that it was asked to be online
            offline = True
        super().__init__(project=project, offline=offline, **arguments)
