"""ReweightedLoss: in R-CE a loss weighs less the higher it is (Wang et al., WSDM 2021)."""

import torch
from torch import Tensor

from llmhd_pl.callbacks.batch_denoiser import BatchDenoiser
from llmhd_pl.denoising.baselines import reweighted
from llmhd_pl.sample_weights import Batch


class ReweightedLoss(BatchDenoiser):
    """R-CE for pointwise losses, R-BPR for pairwise ones; the formula is ``llmhd_pl.denoising.baselines.reweighted``.

    The mean over the batch is a plain one: the weights make the loss smaller and are not normalised.

    Args:
        beta: How steeply a weight falls; the paper uses .2 to .3.

    Raises:
        ValueError: If beta is negative.
        TypeError: If the module does not inherit from ``SampleWeights``.
    """

    def __init__(self, beta: float = 0.25) -> None:
        if beta < 0:
            raise ValueError(f"beta is {beta}; below 0 the highest losses would weigh most.")
        self.beta = beta

    def weigh(self, batch: Batch, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights, and a count of one for each loss."""
        return reweighted(losses, self.beta), torch.ones_like(losses)
