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

        # A run that is in progress stays as it is: Lightning logs to it, and tearing it down would break it.
        if not offline and wandb.run is None and not wandb.login(prompt=False, verify=False):
            wandb.teardown()  # it remembers that it was asked to be online
            offline = True
        super().__init__(project=project, offline=offline, **arguments)
