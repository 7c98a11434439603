"""WeightInBatch: the way to the loss of a module that multiplies it by a weight in its batch."""

from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor

from llmhd_pl.batches import Key, Replaced, look_up, named
from llmhd_pl.callbacks.watched_weights import Products, WatchedWeights


class WeightInBatch:
    """Multiplies the weight in a batch for the time of a step, and finds the losses that the module multiplies by it.

    Args:
        key: Where the weight is in the batch, or where it is put.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self._replaced: Replaced | None = None
        self._products: Products | None = None
        self._checked = False  # whether a step has been seen to use the weights

    def write(self, batch: Any, weights: Tensor) -> None:
        """Multiply the weight in the batch, or put weights where there are none.

        Args:
            batch: The batch.
            weights: What was decided, float32 of the shape of the losses.

        Raises:
            RuntimeError: If the batch's weight is of another shape, or if there is no place for it.
        """
        own = look_up(batch, self.key)
        if own is not None:
            if not isinstance(own, Tensor) or own.shape not in (weights.shape, weights.shape[:-1]):
                shape = list(own.shape) if isinstance(own, Tensor) else type(own).__name__
                raise RuntimeError(
                    f"{named(self.key)} is {shape}, but the losses of these samples are {list(weights.shape)}. The "
                    "weight in the batch and 'sample' must be of one shape."
                )
            own = own if own.is_floating_point() else own.float()
            weights = weights.to(own.dtype) * (own if own.shape == weights.shape else own[..., None])
        watched = WatchedWeights.of(weights)
        self._products = watched.record
        self._replaced = Replaced(batch, self.key, watched)

    def restore(self) -> None:
        """Bring back the batch's own weight, because the batch may be used again."""
        if self._replaced is not None:
            self._replaced.restore()
        self._replaced = None

    def explain(self, exception: BaseException) -> None:
        """Add the remedy to an error of torch.compile, which cannot trace weights that are watched."""
        if type(exception).__module__.startswith("torch._dynamo") or "__torch_dispatch__" in str(exception):
            exception.add_note(
                f"{named(self.key)} is watched to see the losses that it is multiplied by, which torch.compile cannot "
                "trace. Multiply outside of what is compiled, or let the module inherit llmhd_pl.SampleWeights."
            )

    def losses(self, module: LightningModule) -> Tensor:
        """Return the losses of the step, float32 of the shape of the weights; NaN where none was found.

        Args:
            module: The module; errors name its class.

        Raises:
            RuntimeError: If the step did not use the weights, or not in a way that shows its losses.
        """
        assert self._products is not None
        products, self._products = self._products, None
        name = f"{type(module).__name__}.training_step"
        if not products.used_by:
            raise RuntimeError(
                f"{name} did not use {named(self.key)}, so that nothing "
                "that is decided would have an effect. Multiply the un-reduced losses by it, or give the name of "
                "the weight that it multiplies by: weight_key=... of SampleRecorder or of the method. Within "
                "torch.compile it is not seen: multiply outside, or let the module inherit llmhd_pl.SampleWeights."
            )
        other = "or let the module inherit llmhd_pl.SampleWeights, which is shown the losses."
        if not products.reached:
            raise RuntimeError(
                f"{name} did not multiply un-reduced losses that reach the optimised loss by {named(self.key)}; it "
                f"was used by: {', '.join(dict.fromkeys(products.used_by))}. Write loss = (losses * weight).mean(), "
                f"{other} Within a function that is compiled, or written in another language, it cannot be seen."
            )
        if products.multiplied_again:
            raise RuntimeError(
                f"{name} multiplied {named(self.key)} by a part of the loss first, and then by the rest of it, so that "
                f"only that part would be known. Multiply the finished loss of each sample by the weight, {other}"
            )
        if not self._checked and products.terms > 2:
            raise RuntimeError(
                f"{name} multiplied each weight, {named(self.key)}, by {products.terms} numbers. It must be multiplied "
                f"by the loss of its sample; take the mean of its terms before, {other}"
            )
        self._checked = True
        return products.losses()
