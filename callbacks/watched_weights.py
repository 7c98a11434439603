"""WatchedWeights: weights in a batch that see which losses a module multiplies them by."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

_MULTIPLY = {"mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__"}
_DOT = {"dot", "vdot", "inner", "matmul", "__matmul__", "__rmatmul__"}
_DIVIDE = {"div", "__truediv__", "true_divide", "divide", "div_"}
_CROSS_ENTROPY = {"binary_cross_entropy", "binary_cross_entropy_with_logits"}
# What moves weights about moves their positions in the same way.
_MOVE = {
    *("view", "view_as", "reshape", "reshape_as", "unsqueeze", "unsqueeze_", "squeeze", "squeeze_", "flatten", "ravel"),
    *("expand", "expand_as", "transpose", "permute", "t", "swapaxes", "movedim", "__getitem__", "index_select", "take"),
    *("masked_select", "narrow", "select", "repeat", "repeat_interleave", "tile", "flip", "roll", "cat", "concat"),
    *("concatenate", "stack", "hstack", "vstack", "chunk", "split", "unbind"),
}
# What computes with each weight for itself, or with all of them, leaves them where they are.
_KEEP = {
    *("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "contiguous", "clone", "detach"),
    *("add", "__add__", "__radd__", "sub", "__sub__", "rsub", "__rsub__", "div", "__truediv__", "true_divide"),
    *("pow", "__pow__", "sqrt", "square", "abs", "clamp", "clamp_min", "clamp_max", "clip", "nan_to_num", "softmax"),
    *("divide", "masked_fill", "masked_fill_", "where", "clamp_", "clamp_min_", "div_", "add_", "requires_grad_"),
}
_LOOK = {"__get__", "__len__", "size", "dim", "numel", "ndimension", "element_size", "is_floating_point", "stride"}


class WatchedWeights(Tensor):
    """Weights that note the losses they are multiplied by, and whether these reach what is optimised.

    A multiplication by something with a gradient is the one that makes weighted losses. What is derived from weights
    before (moved, masked, normalised) goes on being watched; everything else that is computed is a plain tensor. The
    gradient that arrives at the product tells the sign of the losses, as in ``-(weights * likelihoods).mean()``, and
    which of them count at all. So neither the normalisation of the loss nor the scaling of gradients has a part in it.
    """

    positions: Tensor
    """The position of each entry in the weights that were put into the batch, int64 of this tensor's shape."""
    record: "Products"
    """Where all that were derived from the same weights note what they see."""

    @classmethod
    def of(cls, weights: Tensor) -> Self:
        """Return the weights, watched from here on; ``record`` tells what was seen."""
        positions = torch.arange(weights.numel(), device=weights.device).view(weights.shape)
        return cls._made(weights, positions, Products(weights.shape))

    @classmethod
    def _made(cls, values: Tensor, positions: Tensor, record: "Products") -> Self:
        watched = values.as_subclass(cls)
        watched.positions, watched.record = positions, record
        return watched

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            if torch.compiler.is_compiling():
                return function(*args, **kwargs)  # what is noted while a function is traced would be noted twice
            watched = _first_watched(args, kwargs)
            if watched is None or not hasattr(watched, "record"):
                return function(*args, **kwargs)
            record = watched.record
            if name not in _LOOK:
                record.used_by.append(name)
            factor = _other(args) if name in _MULTIPLY | _DOT and len(args) == 2 and not kwargs else None
            if factor is not None and factor.requires_grad:
                factor = factor.detach().clone()  # it may be changed in place
                product = function(*args)
                if name in _DOT and not factor.dim() == watched.dim() == 1:
                    return product
                record.note(watched.positions, factor, product)
                return WatchedProduct.of(product, record) if name in _MULTIPLY else product
            if name in _CROSS_ENTROPY:
                return _cross_entropy(function, args, kwargs, record)
            result = function(*args, **kwargs)
            if not torch.is_grad_enabled() or not isinstance(result, (Tensor, tuple, list)):
                return result
            if name in _MOVE or (name == "__get__" and isinstance(result, Tensor)):
                positions = function(*_positions(args), **_positions(kwargs))
            elif name in _MULTIPLY | _KEEP and isinstance(result, Tensor):
                positions = watched.positions.to(result.device)
                if result.requires_grad or torch.broadcast_shapes(positions.shape, result.shape) != result.shape:
                    return result
                positions = positions.expand(result.shape)
            else:
                return result
            if isinstance(result, Tensor):
                return cls._made(result, positions, record) if result.shape == positions.shape else result
            return type(result)(cls._made(part, place, record) for part, place in zip(result, positions, strict=True))


class WatchedProduct(Tensor):
    """A product of weights and losses that notices if it is multiplied again by something with a gradient.

    Then what was noted was a factor of the loss and not the loss. A single number scales all alike and does no harm.
    """

    record: "Products"

    @classmethod
    def of(cls, product: Tensor, record: "Products") -> Self:
        """Return the product, watched from here on."""
        watched = product.as_subclass(cls)
        watched.record = record
        return watched

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
            name = getattr(function, "__name__", "")
            record = next((arg.record for arg in args if isinstance(arg, cls) and hasattr(arg, "record")), None)
            if record is None or not isinstance(result, Tensor):
                return result
            if name in _MULTIPLY | _DOT | _DIVIDE:
                others = [arg for arg in args if isinstance(arg, Tensor) and not isinstance(arg, cls)]
                record.multiplied_again |= any(other.requires_grad and other.numel() > 1 for other in others)
            elif name not in _MOVE and name not in ("neg", "__neg__"):
                return result
            return cls.of(result, record) if result.requires_grad else result


class Products:
    """The products of some weights with losses, in one training step.

    Args:
        shape: The shape of the weights, S.
    """

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape
        self._seen: list[tuple[Tensor, Tensor, list[Tensor]]] = []  # positions, factors, signs once they are known
        self.used_by: list[str] = []
        """The names of the functions that computed something with the weights."""
        self.multiplied_again = False
        """Whether a product was multiplied by a further factor with a gradient."""

    def note(self, positions: Tensor, factors: Tensor, product: Tensor) -> None:
        """Note a product, or a sum of products, and wait for its gradient."""
        shape = torch.broadcast_shapes(positions.shape, factors.shape)
        positions, signs = positions.to(factors.device).expand(shape), list[Tensor]()
        self._seen.append((positions, factors.expand(shape), signs))
        if product.requires_grad:
            product.register_hook(lambda gradient: signs.append(gradient.detach().sign()))

    @property
    def terms(self) -> int:
        """The largest number of losses that one weight was multiplied by at once."""
        return max((int(places.flatten().bincount().max()) for places, *_ in self._seen if places.numel()), default=0)

    @property
    def reached(self) -> bool:
        """Whether a gradient has arrived at a product."""
        return any(signs for *_, signs in self._seen)

    def losses(self) -> Tensor:
        """Return the losses that reached what was optimised, float32 [S]; NaN for weights that had none.

        A weight that was multiplied by several losses has their mean; with several products in a step the means are
        added.
        """
        total, device = torch.full((self._shape.numel(),), torch.nan), torch.device("cpu")
        for positions, factors, signs in self._seen:
            if not signs:
                continue
            device, places = factors.device, positions.flatten()
            sign = signs[-1].expand(factors.shape).float().flatten()
            counts = (sign.abs() > 0).float()  # NaN, of gradients that overflowed, does not count either
            terms = torch.where(counts > 0, sign * factors.float().flatten(), 0.0)
            sums = torch.zeros(2, self._shape.numel(), device=device)
            sums[0].index_add_(0, places, terms)
            sums[1].index_add_(0, places, counts)
            # NaN is a loss that was not seen; one that is NaN itself becomes infinite, for whoever checks losses.
            mean = torch.where(sums[1] > 0, (sums[0] / sums[1]).nan_to_num(torch.inf, torch.inf, -torch.inf), torch.nan)
            total = total.to(device)
            total = torch.where(mean.isnan(), total, total.nan_to_num(0.0) + mean)
        return total.view(self._shape)


def _first_watched(args: Any, kwargs: Any) -> WatchedWeights | None:
    for value in (*args, *kwargs.values()):
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, WatchedWeights):
                return part
    return None


def _other(args: Any) -> Tensor | None:
    """Return the factor that is no weight, if there is one."""
    others = [value for value in args if isinstance(value, Tensor) and not isinstance(value, WatchedWeights)]
    return others[0] if len(others) == 1 else None


def _positions(values: Any) -> Any:
    """Return arguments with the positions in place of the weights."""
    if isinstance(values, WatchedWeights):
        return values.positions
    if isinstance(values, dict):
        return {name: _positions(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_positions(value) for value in values)
    return values


def _cross_entropy(function: Callable[..., Tensor], args: Any, kwargs: Any, record: Products) -> Tensor:
    """Return the cross entropy with weights, and note its losses without them."""
    names = ("input", "target", "weight", "size_average", "reduce", "reduction", "pos_weight")
    given = dict(zip(names, args, strict=False)) | kwargs
    result = function(*args, **kwargs)
    weights, prediction = given.get("weight"), given["input"]
    if isinstance(weights, WatchedWeights) and prediction.requires_grad:
        more = {"pos_weight": given["pos_weight"]} if given.get("pos_weight") is not None else {}
        plain = getattr(F, function.__name__)
        record.note(weights.positions, plain(prediction.detach(), given["target"], reduction="none", **more), result)
    return result
