"""QuantizedLLM: any causal language model of Hugging Face or in a gguf file, in 4 or 8 bit, on CUDA and on CPU."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llmhd_pl.llm.answer_paths import answer_paths, branches, plain_ids
from llmhd_pl.llm.asked_model import WRITTEN_SCORE_TOKENS, Scoring
from llmhd_pl.llm.asking import Rating
from llmhd_pl.llm.causal_lm import CausalLM
from llmhd_pl.llm.chat_template import frame
from llmhd_pl.llm.context import check_context, check_list, context_length
from llmhd_pl.llm.dtypes import Dtype, check_dtype, resolved_dtype
from llmhd_pl.llm.first_answers import FirstAnswers
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.llm.likelihood import TextLikelihood
from llmhd_pl.llm.pretrained import (
    Quantization,
    check_quantization,
    load_causal_lm,
    load_config,
    load_tokenizer,
    model_digest,
)
from llmhd_pl.llm.prompts import T_LIKELIHOOD, T_SCORE, parse_profile, parse_score, parse_summary
from llmhd_pl.llm.token_batches import tokens_that_fit


class QuantizedLLM(LanguageModelScorer):
    """A causal language model from the hub, a folder or a gguf file, quantised by bitsandbytes when it is loaded.

    The model is loaded when it is first asked, so a run that the cache answers never loads it. Hold the scorer in a
    callback, not in a LightningModule: a quantised model must be neither moved nor cast.

    Args:
        model: A hub id, or the path of a folder or of a single gguf file.
        revision: A branch, tag or commit on the hub.
        quantization: "nf4" (4 bit, double quantisation), "int8" or "none". What is quantised already is loaded as it
            is: see ``load_causal_lm``.
        device: Where the model runs. None takes CUDA if there is a device, otherwise the CPU.
        batch_tokens: The tokens of a batch. None takes what fits (``tokens_that_fit``). The number halves when the
            device runs out of memory.
        prompts: See ``LanguageModelScorer`` for this argument and the following ones.
        scoring: "expected", "generate" or "likelihood".
        cache: The file of the answers.
        replay: Whether to answer from the cache alone.
        max_tokens: The limit on the tokens of this process.
        item_tokens: The most tokens of an item's profile.
        history_tokens: The most tokens of a history that is summarised.
        seed: The seed of the sampling of longer histories, and of the pairs that scores are calibrated on.
        calibrate: Whether scores are calibrated on observed and random pairs; False takes them as the model gives them.
        dtype: The format of what is not quantised. "auto" is bfloat16 where the machine multiplies it, otherwise
            float16 on a GPU and float32 on a CPU. A model that overflows in float16 needs "float32".

    Raises:
        ValueError: If ``quantization``, ``scoring`` or ``dtype`` is unknown.
        OSError: If the model cannot be loaded; raised when it is first asked.
    """

    def __init__(
        self,
        model: str,
        revision: str = "main",
        quantization: Quantization = "nf4",
        device: str | None = None,
        batch_tokens: int | None = None,
        prompts: str = "neutral",
        scoring: Scoring = "expected",
        cache: str | None = None,
        replay: bool = False,
        max_tokens: int | None = None,
        item_tokens: int = 64,
        history_tokens: int = 1024,
        seed: int = 0,
        calibrate: bool = True,
        dtype: Dtype = "auto",
    ) -> None:
        super().__init__(prompts, scoring, cache, replay, max_tokens, item_tokens, history_tokens, seed, calibrate)
        check_quantization(quantization)
        check_dtype(dtype)
        self.dtype: Dtype = dtype
        self.model, self.revision, self.device = model, revision, device
        self.quantization: Quantization = quantization
        self.batch_tokens = batch_tokens

    @property
    def model_fingerprint(self) -> dict[str, str]:
        """The name, revision, quantisation and a format that was asked for. The hash of the files replaces name and
        revision of a folder or file.

        A branch on the hub, such as "main", may point to a different model later: give a commit if you keep answers
        for long.
        """
        named = {"model": self.model, "revision": self.revision} if self._digest is None else {"model": self._digest}
        chosen = {} if self.dtype == "auto" else {"dtype": self.dtype}
        return named | {"quantization": self.quantization} | chosen

    @cached_property
    def _digest(self) -> str | None:
        return model_digest(self.model)

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Take in the items and the pairs, and check that the model can be asked, before anything is paid for.

        Args:
            items: The text fields of every item.
            pairs: The training interactions, int64 [n, 2]. They say how long a history can be.

        Raises:
            ValueError: If the model's chat template loses or changes the prompt or cannot be answered (``frame``), if
                its tokenizer does not tell the ten scores apart, or if a prompt can be longer than what the model
                reads (``check_context``, ``check_list``).
            OSError: If the tokenizer or the config cannot be loaded.
        """
        before, after = ([], []) if self.scoring == "likelihood" else frame(self._tokenizer)
        score_tokens = WRITTEN_SCORE_TOKENS
        if self.scoring == "expected":
            forced, paths = answer_paths(self._token_ids)
            score_tokens = len(forced) + len(branches(paths)[-1])
        super().prepare(items, pairs)
        length = context_length(load_config(self.model, self.revision))
        if length is not None and self.scoring == "likelihood":
            check_list(self, length, self._all_profiles(), pairs)
        elif length is not None:
            check_context(self, length, self._all_profiles(), pairs, len(before) + len(after), score_tokens)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text in the model's tokenizer."""
        return len(self._token_ids(text))

    def _token_ids(self, text: str) -> list[int]:
        return plain_ids(self._tokenizer, text)

    @property
    def overhead(self) -> int:
        """The tokens of a prompt besides its text; loads the model."""
        if self.scoring == "likelihood":
            return len(self.text_likelihood.first)
        if self.scoring == "generate":  # the answer has no given beginning, and its tokens need not be told apart
            return len(self.causal_lm.before) + len(self.causal_lm.after)
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
        """Compute expected scores, with the beginning of each group computed once, or log-likelihoods of the endings.

        Args:
            groups: Prompts with a common beginning: the beginning and the endings.

        Yields:
            The ratings. A score is NaN if the model's logits are not finite.

        Raises:
            RuntimeError: If the model's first eight scores are NaN.
        """
        if self.scoring == "likelihood":
            places = [(group, ending) for group, (_, endings) in enumerate(groups) for ending in range(len(endings))]
            prompts = [(groups[group][0], groups[group][1][ending]) for group, ending in places]
            for number, log_likelihood, read in self.text_likelihood.log_likelihoods(prompts):
                yield Rating(*places[number], log_likelihood, read, 0)
                self._first_answers.rated(log_likelihood, "log-likelihood")
            return
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
            rated = template == T_LIKELIHOOD or (template == T_SCORE and self.scoring == "expected")
            self._first_answers.found_valid("rating" if rated else "score" if template == T_SCORE else "text")

    @cached_property
    def _first_answers(self) -> FirstAnswers:
        dtype = str(resolved_dtype(self.dtype, self._device)).removeprefix("torch.")
        return FirstAnswers(f"{self.model!r} (quantization {self.quantization!r}, {dtype})")

    @property
    def _device(self) -> str:
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.model, self.revision)

    @cached_property
    def causal_lm(self) -> CausalLM:
        """The model with its tokenizer; loaded when this is first read."""
        model = self._load()
        return CausalLM(model, self._tokenizer, self.batch_tokens or tokens_that_fit(model))

    @cached_property
    def text_likelihood(self) -> TextLikelihood:
        """The model as ``scoring="likelihood"`` uses it, without a chat template; loaded when this is first read."""
        first = self._tokenizer.bos_token_id
        model = self._load()
        batch_tokens = self.batch_tokens or tokens_that_fit(model)
        return TextLikelihood(model, self._token_ids, [] if first is None else [first], batch_tokens)

    def _load(self) -> Any:
        return load_causal_lm(self.model, self.revision, self.quantization, self._device, self.dtype)
