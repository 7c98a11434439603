"""Vectors of texts from the hidden states of a causal language model, which reads each text once."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmhd_pl.llm.answer_paths import plain_ids
from llmhd_pl.llm.progress import AskingBar
from llmhd_pl.llm.token_batches import TokenBatches, padded

BATCH_TOKENS = {"cpu": 512, "cuda": 2**18}
"""The tokens of a batch. On a CPU, 2,048 took 1.3 times as long as 512, which stay in its cache. On a GPU the first
batch is meant not to fit: the number halves until the card is full."""


class HiddenStates(TokenBatches):
    """Turns texts into vectors: the mean of the directions of a layer's hidden states over the tokens of a text.

    Each token's state is brought to length 1 first, so that no token counts more because its state is long.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its tokenizer.
        layer: The number of layers that a text passes through, 1 to all. None takes half of them: the later ones
            prepare the next word, and the earlier ones see only words.

    Attributes:
        layer: The number of layers that a text passes through.
        batch_tokens: The tokens of a batch, with padding.

    Raises:
        ValueError: If the model has no such layer, or if its layers have no single state for each token.
    """

    def __init__(self, model: Any, tokenizer: Any, layer: int | None = None) -> None:
        super().__init__(BATCH_TOKENS["cpu" if model.device.type == "cpu" else "cuda"])
        self.model, self.tokenizer = model, tokenizer
        self._layers = _layers(model)
        self.layer = (len(self._layers) + 1) // 2 if layer is None else layer
        if not 1 <= self.layer <= len(self._layers):
            raise ValueError(f"layer is {layer}; the model has layers 1 to {len(self._layers)}.")

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Compute the vectors of texts.

        Args:
            texts: The texts.

        Returns:
            float32 [texts, width], each row of length 1, on the CPU. NaN where the model's states are not finite.
        """
        first = self.tokenizer.bos_token_id
        before = [] if first is None else [first]
        encoded = [[*before, *plain_ids(self.tokenizer, text)] for text in texts]
        lengths = [len(tokens) for tokens in encoded]
        vectors = torch.empty(len(encoded), self.model.config.get_text_config().hidden_size)
        means = self.in_batches(
            lengths,
            lambda left: left[: max(1, self.batch_tokens // max(1, lengths[left[0]]))],
            lambda rows: self._mean([encoded[row] for row in rows]).cpu(),
        )
        with AskingBar("texts read", len(texts)) as advance:
            for row, mean in means:
                vectors[row] = mean
                advance(1)
        return F.normalize(vectors, dim=1)

    def _mean(self, encoded: list[list[int]]) -> Tensor:
        """Return the mean direction of each text's states, float32 [rows, width]."""
        ids, mask = (part.to(self.model.device) for part in padded(encoded))
        states = self._states(ids, mask)
        return (F.normalize(states.float(), dim=2) * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the states after ``layer`` layers, [rows, tokens, width]; the layers above are not computed."""

        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            raise _ReachedLayerError(output if isinstance(output, Tensor) else output[0])

        handle = self._layers[self.layer - 1].register_forward_hook(stop)
        try:
            self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        except _ReachedLayerError as reached:
            if reached.states.shape[:2] != ids.shape:
                raise ValueError(
                    f"{type(self.model).__name__} has no single state for each token between its layers (their shape "
                    f"is {list(reached.states.shape)}), so they cannot be averaged. Take another model."
                ) from None
            return reached.states
        finally:
            handle.remove()
        raise RuntimeError(f"{type(self.model).__name__} does not call its layers as modules, so they cannot be read.")


class _ReachedLayerError(Exception):
    """Ends a forward pass at the layer that is wanted."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


def _layers(model: Any) -> nn.ModuleList:
    """Return the list of a model's layers: the outermost module list with as many entries as it has layers."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():  # outermost first
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {count} layers, so its hidden states cannot be read.")
