"""Attention of many continuations to one prefix that stays a single row. For CPUs; see docs/llm.md, "Speed"."""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_shared_prefix"
_CHANGED = ("sliding_window", "softcap", "s_aux", "position_bias")  # attention with one of these arguments is not plain


class SharedPrefix:
    """The keys and values of a prefix, one row, for a forward pass of its continuations without a cache.

    Args:
        cache: The key-value cache of the prefix.

    Attributes:
        layers: The keys and values of each layer.
        attended: The layers that have attended to the prefix.

    Raises:
        ValueError: If a layer keeps something else than plain keys and values.
    """

    def __init__(self, cache: Cache) -> None:
        layers: list[Any] = cache.layers
        plain = all(type(layer) is DynamicLayer for layer in layers)
        self.layers: list[tuple[Tensor, Tensor]] = [(layer.keys, layer.values) for layer in layers] if plain else []
        if not plain or any(keys.shape != values.shape for keys, values in self.layers):
            raise ValueError("Some layers keep something else than plain keys and values, such as a window or a state.")
        self.attended: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every layer has attended to the prefix; if not, the result of the forward pass is worthless.

        This reveals models that pass no arguments on to their attention, or whose attention is not plain.
        """
        return len(self.attended) == len(self.layers)


def enable(model: Any) -> bool:
    """Prepare a model for ``model(..., shared_prefix=SharedPrefix(cache))``; all other calls work as before.

    Args:
        model: A causal language model of transformers.

    Returns:
        Whether the model can do it, which takes a CPU and PyTorch's attention.
    """
    if model.device.type != "cpu" or model.config._attn_implementation not in ("sdpa", NAME):
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def disable(model: Any) -> None:
    """Give a model PyTorch's attention back.

    Args:
        model: A model that ``enable`` has prepared.
    """
    model.set_attn_implementation("sdpa")


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefix | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Compute PyTorch's attention; with a shared prefix, over the prefix and the own tokens apart, combined exactly.

    A softmax over two parts is the mean of their softmaxes, weighted by their sums of exponentials. The queries of all
    rows, and of all heads that share keys, attend to the prefix as if they were one long row. That takes two large
    products instead of many small ones, and no copy of the prefix for each row, head and layer.

    Args:
        module: The attention layer.
        query: The queries, [rows, heads, tokens, size].
        key: The keys of the own tokens, [rows, key heads, tokens, size].
        value: The values of the own tokens, with the same shape as ``key``.
        attention_mask: The mask of the own tokens, bool [rows, 1, tokens, tokens]; None is causal.
        scaling: The factor of the products.
        shared_prefix: The prefix.
        arguments: Whatever else the model passes on.
    """
    if shared_prefix is None or any(arguments.get(name) is not None for name in _CHANGED):
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **arguments
        )
        return plain
    # PyTorch's public function does not return the logarithm of the sum.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    index: Any = module.layer_idx
    prefix_key, prefix_value = shared_prefix.layers[index]
    rows, heads, tokens, size = query.shape
    groups = key.shape[1]
    split = (groups, rows, heads // groups, tokens)
    long = query.view(rows, groups, heads // groups, tokens, size).transpose(0, 1).reshape(1, groups, -1, size)
    there, there_sum = attention(long, prefix_key, prefix_value, scale=scaling)
    there = there.view(*split, size).transpose(0, 1).reshape(query.shape)
    there_sum = there_sum.reshape(split).transpose(0, 1).reshape(rows, heads, tokens)
    mask = None
    if attention_mask is not None:
        # Not minus infinity, because padding attends to no own token, and the NaN would spread.
        lowest = torch.finfo(query.dtype).min / 2
        mask = torch.zeros(attention_mask.shape, dtype=query.dtype).masked_fill_(~attention_mask, lowest)
    own_key, own_value = (part.repeat_interleave(heads // groups, dim=1) for part in (key, value))
    own, own_sum = attention(query, own_key, own_value, is_causal=mask is None, attn_mask=mask, scale=scaling)
    weight = (there_sum - own_sum).sigmoid().unsqueeze(-1).to(query.dtype)
    shared_prefix.attended.add(index)
    return own.lerp(there, weight).transpose(1, 2).contiguous(), None
