"""SampleStore: all that is kept about every training sample, as dense tensors indexed by ``sample``."""

from typing import Any

import torch
from torch import Tensor

CLEAN, NOISE, CANDIDATE, HARD = 0, 1, 2, 3
"""Values of ``SampleStore.status``: outside the noise set; in it; selected from it by variance pruning; found hard."""
_CHUNK = 2**18  # samples at once, for temporary memory that does not grow with the samples and stays in the cache


class SampleStore:
    """The predictions of the last epochs, the losses of this epoch, and what was decided, per sample.

    With one loss per sample (pairwise) the tensors ``losses``, ``status`` and ``weights`` are [n]; with two
    (pointwise: column 0 the positive, column 1 the negative) they are [n, 2]. A window of 5 epochs takes 57 bytes
    per sample (pairwise) or 64 (pointwise).

    A sample that this process has not seen in the last ``keep`` epochs has loss NaN; under DDP that is how a process
    knows which samples are its own. When a negative changes, its history is forgotten: a variance compares predictions
    of one and the same item.

    Args:
        num_samples: The number of samples, n.
        window: The number of epochs of predictions that are kept, m (docs/paper.md, section 2).
        pointwise: Whether there are two losses per sample.
        device: The device of the tensors: that of the model, so that no batch has to wait for a copy.
        keep: The number of epochs that a loss stays valid, up to the window; 1 is its own epoch only.

    Raises:
        ValueError: If the window is shorter than 2 epochs, because then there is no variance, or if ``keep`` is not 1
            to the window.
    """

    positive: Tensor
    """float32 [window, n], predictions for the observed item; NaN where there is none."""
    losses: Tensor
    """float32 [n] or [n, 2], the last of the current epoch or of the ``keep`` - 1 epochs before."""
    negative_item: Tensor
    """int32 [n], the sampled item that ``negative`` is about; -1 before the first."""
    status: Tensor
    """uint8 [n] or [n, 2], ``CLEAN`` to ``HARD``."""
    weights: Tensor
    """float16 [n] or [n, 2], of the losses of the next epoch."""
    false_positive_flags: Tensor
    """uint8 [n], epochs in which the observed item was flagged (section 4)."""

    def __init__(
        self, num_samples: int, window: int = 5, pointwise: bool = False, device: Any = "cpu", keep: int = 1
    ) -> None:
        if window < 2:
            raise ValueError(f"window is {window}; a variance needs the predictions of at least 2 epochs.")
        if not 1 <= keep <= window:
            raise ValueError(f"keep is {keep}; it counts epochs, from 1 to the window, {window}.")
        self.num_samples, self.window, self.pointwise, self.keep = num_samples, window, pointwise, keep
        self.epoch = -1
        shape = (num_samples, 2) if pointwise else (num_samples,)
        self.positive = torch.full((window, num_samples), torch.nan, device=device)
        self._negative = torch.full((window, num_samples), torch.nan, device=device)
        self.losses = torch.full(shape, torch.nan, device=device)
        self.negative_item = torch.full((num_samples,), -1, dtype=torch.int32, device=device)
        self.status = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.weights = torch.ones(shape, dtype=torch.float16, device=device)
        self.false_positive_flags = torch.zeros(num_samples, dtype=torch.uint8, device=device)
        self._false_negative_flags = torch.zeros(num_samples, dtype=torch.uint8, device=device)
        # The sampled item that the earlier epochs and the flags are about. Where another has taken its place, they are
        # forgotten when somebody asks: to forget them in every step would cost as much as the rest of the step.
        self._known_item = self.negative_item.clone()
        self._outdated = False  # whether something may be left to forget

    @property
    def negative(self) -> Tensor:
        """The predictions for the sampled item, float32 [window, n]; NaN where there is none."""
        self._forget()
        return self._negative

    @property
    def false_negative_flags(self) -> Tensor:
        """In how many epochs the sampled item was flagged, uint8 [n]."""
        self._forget()
        return self._false_negative_flags

    def _forget(self) -> None:
        if not self._outdated:
            return
        changed = self.negative_item != self._known_item
        for row in range(self.window):
            if row != self.epoch % self.window:
                self._negative[row].masked_fill_(changed, torch.nan)
        self._false_negative_flags.masked_fill_(changed, 0)
        self._known_item.copy_(self.negative_item)
        self._outdated = False

    def begin_epoch(self, epoch: int) -> None:
        """Make room for the predictions of an epoch; no-op if it was begun before, as in a resumed run."""
        if epoch == self.epoch:
            return
        self._forget()
        self.epoch = epoch
        self.positive[epoch % self.window] = torch.nan
        self._negative[epoch % self.window] = torch.nan
        self.losses[~self._recent()] = torch.nan

    def _recent(self) -> Tensor:
        """Which samples were seen in this epoch or in the ``keep`` - 1 before, bool [n]."""
        epochs = range(self.epoch - self.keep + 1, self.epoch + 1)
        return ~torch.stack([self.positive[epoch % self.window].isnan() for epoch in epochs]).all(dim=0)

    def record(
        self,
        sample: Tensor,
        positive_score: Tensor,
        negative_score: Tensor | None,
        losses: Tensor,
        negative: Tensor | None,
    ) -> None:
        """Keep what a training step returned about its samples.

        Args:
            sample: The samples, int64 [B].
            positive_score: The predictions for the observed items, [B].
            negative_score: The predictions for the sampled items, [B]; None if they are not known.
            losses: The un-reduced losses, [B] or [B, 2].
            negative: The sampled items, int64 [B]; None if there are none.
        """
        row = self.epoch % self.window
        # Nothing here waits for a GPU, as an index of booleans or the assignment of a number would.
        if negative is not None:
            self.negative_item.index_copy_(0, sample, negative.int())
            self._outdated = True
            unknown = torch.full_like(positive_score, torch.nan) if negative_score is None else negative_score
            self._negative[row].index_copy_(0, sample, unknown.float())
        self.positive[row].index_copy_(0, sample, positive_score.float())
        self.losses.index_copy_(0, sample, losses.float())

    def weights_of(self, sample: Tensor, negative: Tensor | None) -> Tensor:
        """Return the weights of a batch. A decision about a sampled item holds for that item: a new one counts in full.

        Args:
            sample: The samples, int64 [B].
            negative: The sampled items, int64 [B]; None if there are none.

        Returns:
            The weights, float32 [B] or [B, 2].
        """
        weights = self.weights.index_select(0, sample).float()
        if self.pointwise and negative is not None:
            weights[self.negative_item[sample] != negative, 1] = 1.0
        return weights

    def selectable(self) -> Tensor:
        """Return the losses that a decision for the next epoch can be about, float32 [n] or [n, 2].

        The loss of a sampled item is NaN unless the item has stayed with its sample for two epochs of the window: any
        other may have been drawn for this epoch only.
        """
        if not self.pointwise:
            return self.losses
        epochs = torch.zeros(self.num_samples, dtype=torch.uint8, device=self.losses.device)
        for scores in self.negative:
            epochs += ~scores.isnan()
        losses = self.losses.clone()
        losses[epochs < 2, 1] = torch.nan
        return losses

    def variances(self) -> tuple[Tensor, Tensor]:
        """Return the variances of the predictions for the observed and the sampled items over the window (section 2).

        Returns:
            Two tensors, float32 [n]; NaN where fewer than two epochs are known, or none of the last ``keep``.
        """
        recent = self._recent()
        results = torch.empty_like(self.positive[0]), torch.empty_like(self.positive[0])
        for start in range(0, self.num_samples, _CHUNK):
            part = slice(start, start + _CHUNK)
            for scores, result in zip((self.positive, self.negative), results, strict=True):
                result[part] = _variance(scores[:, part], recent[part])
        return results

    @property
    def bytes_per_sample(self) -> float:
        """The memory of the tensors, in bytes per sample."""
        return sum(part.numel() * part.element_size() for part in self._tensors().values()) / max(self.num_samples, 1)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _kept(self) -> dict[str, Tensor]:
        self._forget()
        return {name.removeprefix("_"): value for name, value in self._tensors().items() if name != "_known_item"}

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as tensors (not copied) and plain numbers."""
        return {"epoch": self.epoch, **self._kept()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            ValueError: If it is of other data, another window or another objective.
        """
        for name, value in self._kept().items():
            if state[name].shape != value.shape:
                raise ValueError(
                    f"The checkpoint's {name} has shape {tuple(state[name].shape)}; this run's has "
                    f"{tuple(value.shape)}. Resume with the same data, the same noise, window and objective."
                )
        for name, value in self._kept().items():
            value.copy_(state[name])
        self._known_item.copy_(self.negative_item)
        self.epoch = state["epoch"]


def observed(values: Tensor) -> Tensor:
    """Return the values of the observed items, [B]: all of [B], or column 0 of [B, 2], as a view."""
    return values[:, 0] if values.dim() == 2 else values


def _variance(scores: Tensor, known: Tensor) -> Tensor:
    """Return the (uncorrected) variance of each column over its entries other than NaN; it is only ever ranked."""
    present = ~scores.isnan()
    count = present.sum(dim=0)
    if count.max() < 2:  # items that are drawn anew in every epoch
        return torch.full_like(scores[0], torch.nan)
    mean = scores.nan_to_num(0.0).sum(dim=0) / count
    # In two passes: E[x^2] - E[x]^2 would lose the small variances to rounding.
    squares = torch.where(present, scores - mean, 0.0).square_().sum(dim=0)
    return torch.where((count >= 2) & known, squares / count, torch.nan)
