"""QuantizedLLM: any Hugging Face causal language model, in 4 or 8 bit, on CUDA and on CPU."""

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llmhd_pl.llm.asking import Rating
from llmhd_pl.llm.causal_lm import CausalLM, answer_paths, plain_ids
from llmhd_pl.llm.chat_template import frame
from llmhd_pl.llm.dtypes import fast_dtype
from llmhd_pl.llm.first_answers import FirstAnswers
from llmhd_pl.llm.language_model import WRITTEN_SCORE_TOKENS, LanguageModelScorer, Scoring
from llmhd_pl.llm.prompts import T_SCORE, parse_profile, parse_score, parse_summary

# Weights, settings, tokenizer and chat template.
_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")

Quantization = Literal["nf4", "int8", "none"]


class QuantizedLLM(LanguageModelScorer):
    """A causal language model from the hub or a folder, quantised by bitsandbytes when it is loaded.

    The model is loaded when it is first asked, so a run that the cache answers never loads it. Hold the scorer in a
    callback, not in a LightningModule: a quantised model must be neither moved nor cast.

    Args:
        model: A hub id or the path of a folder.
        revision: A branch, tag or commit on the hub.
        quantization: "nf4" (4 bit, double quantisation), "int8" or "none". What is not quantised is bfloat16, or
            float32 on a machine that only emulates bfloat16.
        device: Where the model runs. None takes CUDA if there is a device, otherwise the CPU.
        batch_tokens: The tokens of a batch. The number halves when the device runs out of memory.
        prompts: See ``LanguageModelScorer`` for this argument and the following ones.
        scoring: "expected" or "generate".
        cache: The file of the answers.
        replay: Whether to answer from the cache alone.
        max_tokens: The hard limit on tokens.
        item_tokens: The most tokens of an item's profile.
        history_tokens: The most tokens of a history that is summarised.
        seed: The seed of the sampling of longer histories.

    Raises:
        ValueError: If ``quantization`` or ``scoring`` is unknown.
        OSError: If the model cannot be loaded; raised when it is first asked.
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
        """The name, revision and quantisation. For a folder, the hash of its files stands for name and revision.

        A branch on the hub, such as "main", may point to a different model later: give a commit if you keep answers
        for long.
        """
        if Path(self.model).is_dir():
            return {"model": self._digests, "quantization": self.quantization}
        return {"model": self.model, "revision": self.revision, "quantization": self.quantization}

    @cached_property
    def _digests(self) -> str:
        files = sorted(file for ending in _MODEL_FILES for file in Path(self.model).glob(f"*{ending}"))
        return " ".join(f"{file.name}:{file_digest(file)}" for file in files)

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Write the profiles of the items, and check that the model can be asked, before anything is paid for.

        Args:
            items: The text fields of every item.
            pairs: The training interactions, int64 [n, 2]; not used.

        Raises:
            ValueError: If the model's chat template loses or changes the prompt or cannot be answered (``frame``), or
                if its tokenizer does not tell the ten scores apart.
            OSError: If the tokenizer cannot be loaded.
        """
        frame(self._tokenizer)
        if self.scoring == "expected":
            answer_paths(self._token_ids)
        super().prepare(items, pairs)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text in the model's tokenizer."""
        return len(self._token_ids(text))

    def _token_ids(self, text: str) -> list[int]:
        return plain_ids(self._tokenizer, text)

    @property
    def overhead(self) -> int:
        """The tokens of a prompt besides its text; loads the model."""
        return self.causal_lm.overhead

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        """Let the model complete prompts greedily.

        Args:
            prompts: The prompts.
            max_new_tokens: The most tokens of an answer.

        Yields:
            The number of each prompt, its completion, the tokens of the prompt and those of the answer.

        Raises:
            RuntimeError: If none of the model's first eight answers has the form that was asked for.
        """
        what = "score" if max_new_tokens == WRITTEN_SCORE_TOKENS else "text"
        parsers = (parse_score,) if what == "score" else (parse_summary, parse_profile)
        for done in self.causal_lm.complete(prompts, max_new_tokens):
            yield done.index, done.text, done.prompt_tokens, done.answer_tokens
            self._first_answers.wrote(what, done.text, any(parse(done.text) is not None for parse in parsers))

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        """Compute expected scores, with the beginning of each group computed once.

        Args:
            groups: Prompts with a common beginning: the beginning and the endings.

        Yields:
            The ratings, one group after another. A score is NaN if the model's logits are not finite.

        Raises:
            RuntimeError: If the model's first eight scores are NaN.
        """
        for group, scores, tokens in self.causal_lm.rate(groups):
            for ending, (score, read) in enumerate(zip(scores, tokens, strict=True)):
                yield Rating(group, ending, score, read, 0)
                self._first_answers.rated(score)

    def on_cached_answers(self, template: str, answers: Collection[str]) -> None:
        """Note that the model can answer.

        Args:
            template: The name of the template.
            answers: The answers, as they are kept.
        """
        if answers:
            rated = template == T_SCORE and self.scoring == "expected"
            self._first_answers.found_valid("rating" if rated else "score" if template == T_SCORE else "text")

    @cached_property
    def _first_answers(self) -> FirstAnswers:
        dtype = str(fast_dtype(self._device)).removeprefix("torch.")
        return FirstAnswers(f"{self.model!r} (quantization {self.quantization!r}, {dtype})")

    @property
    def _device(self) -> str:
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with _named(self.model):
            return AutoTokenizer.from_pretrained(self.model, revision=self.revision)

    @cached_property
    def causal_lm(self) -> CausalLM:
        """The model with its tokenizer; loaded when this is first read."""
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        if self.quantization == "int8":
            # Otherwise it says "inputs will be cast" for every layer and call.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        device, dtype = self._device, fast_dtype(self._device)
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
                # With it, bitsandbytes repacks the weights for a kernel that makes single tokens 6 times faster and
                # whole prompts 10 times slower (measured on AVX-512 with AMX). Here nearly all tokens are in prompts.
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
        return CausalLM(model, self._tokenizer, self.batch_tokens)


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Add the model's name and the remedy to errors that are raised while it is loaded."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"The language model {model!r} could not be loaded ({error}). On a machine without a model hub, give the "
            "path of a folder that holds one; EncoderScorer and LexicalScorer judge without a language model."
        ) from error


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
