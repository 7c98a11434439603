"""QuantizedLLM: any Hugging Face causal language model, in 4 or 8 bit, on CUDA and on CPU."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llmhd_pl.llm.causal_lm import CausalLM
from llmhd_pl.llm.language_model import LanguageModelScorer, Rating, Scoring

# Weights, settings, tokenizer, chat template.
_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")

Quantization = Literal["nf4", "int8", "none"]


class QuantizedLLM(LanguageModelScorer):
    """A causal language model from the hub or a folder, quantised by bitsandbytes when it is loaded.

    The model is loaded when it is first asked: a run that the cache answers never loads it. Hold the scorer in a
    callback, not in a LightningModule: a quantised model must be neither moved nor cast.

    Args:
        model: hub id or folder.
        revision: branch, tag or commit of the hub.
        quantization: "nf4" (4 bit, double quantisation), "int8", or "none". What is not quantised is
            bfloat16, or float32 on a machine that only emulates bfloat16.
        device: where it runs; None is CUDA where there is one, otherwise the CPU.
        batch_tokens: tokens of a batch; it halves itself when the device runs out of memory.
        prompts: see ``LanguageModelScorer``, as for all that follow.
        scoring: "expected" or "generate".
        cache: file of the answers.
        replay: answer from the cache alone.
        max_tokens: hard budget of tokens.
        item_tokens: longest profile of an item.
        history_tokens: longest history that is summarised.
        seed: seed of the sampling of longer histories.

    Raises:
        OSError: the model cannot be loaded; raised when it is first asked.
    """

    def __init__(
        self,
        model: str,
        revision: str = "main",
        quantization: Quantization = "nf4",
        device: str | None = None,
        batch_tokens: int = 16384,
        prompts: str = "neutral",
        scoring: Scoring = "expected",
        cache: str | None = None,
        replay: bool = False,
        max_tokens: int | None = None,
        item_tokens: int = 64,
        history_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__(prompts, scoring, cache, replay, max_tokens, item_tokens, history_tokens, seed)
        if quantization not in ("nf4", "int8", "none"):
            raise ValueError(f"quantization is {quantization!r}; it must be 'nf4', 'int8' or 'none'.")
        self.model, self.revision, self.device = model, revision, device
        self.quantization: Quantization = quantization
        self.batch_tokens = batch_tokens

    @property
    def model_fingerprint(self) -> dict[str, str]:
        """Name, revision and quantisation; of a folder, wherever it lies, the hash of its files stands for both.

        A branch of the hub, such as "main", may come to hold another model: give a commit where answers are kept long.
        """
        if Path(self.model).is_dir():
            return {"model": self._digests, "quantization": self.quantization}
        return {"model": self.model, "revision": self.revision, "quantization": self.quantization}

    @cached_property
    def _digests(self) -> str:
        files = sorted(file for ending in _MODEL_FILES for file in Path(self.model).glob(f"*{ending}"))
        return " ".join(f"{file.name}:{_digest(file)}" for file in files)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the model's tokenizer."""
        return len(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    @property
    def overhead(self) -> int:
        """See ``LanguageModelScorer``; loads the model."""
        return self._causal_lm.overhead

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        """Greedy completions."""
        for done in self._causal_lm.complete(prompts, max_new_tokens):
            yield done.index, done.text, done.prompt_tokens, done.answer_tokens

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        """Expected scores, with the beginning of a group computed once."""
        for group, scores, tokens in self._causal_lm.rate(groups):
            for ending, (score, read) in enumerate(zip(scores, tokens, strict=True)):
                yield Rating(group, ending, score, read, 0)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with _named(self.model):
            return AutoTokenizer.from_pretrained(self.model, revision=self.revision)

    @cached_property
    def _causal_lm(self) -> CausalLM:
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        from llmhd_pl.llm.dtypes import fast_dtype

        if self.quantization == "int8":
            # "inputs will be cast", once per layer and call.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = fast_dtype(device)
        options: dict[Quantization, dict[str, Any]] = {
            "nf4": {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": dtype,
            },
            "int8": {"load_in_8bit": True},
        }
        quantized = options.get(self.quantization)
        with _named(self.model):
            model = AutoModelForCausalLM.from_pretrained(
                self.model,
                revision=self.revision,
                dtype=dtype,
                device_map={"": device},
                quantization_config=None if quantized is None else BitsAndBytesConfig(**quantized),
            ).eval()
        if device == "cpu":
            for module in model.modules():
                # With it, bitsandbytes packs the weights anew for a kernel that makes single tokens 6 times faster and
                # whole prompts 10 times slower (measured on AVX-512 with AMX). Here nearly all tokens are of prompts.
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
        return CausalLM(model, self._tokenizer, self.batch_tokens)


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Name the model that could not be loaded within, and the remedy."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"The language model {model!r} could not be loaded ({error}). On a machine without a model hub, give the "
            "path of a folder that holds one; EncoderScorer and LexicalScorer judge without a language model."
        ) from error


def _digest(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
