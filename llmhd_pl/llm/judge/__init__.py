"""The embedded judge: a tiny language model with which the 4-bit path runs offline. A demonstration, no more."""

from pathlib import Path

from llmhd_pl.llm.asked_model import Scoring
from llmhd_pl.llm.pretrained import Quantization
from llmhd_pl.llm.quantized import QuantizedLLM

FOLDER = Path(__file__).parent
"""The folder of the model."""


class EmbeddedJudge(QuantizedLLM):
    """A Llama of 1.06 million parameters that knows the books of ``SyntheticCatalog`` and nothing else.

    ``tools/train_judge.py`` trains and measures it; ``docs/judges.md`` has the figures. It is there for the quickstart
    and for tests. Its scores are not calibrated, because it was trained to use the scale of the prompts. For real data,
    take ``QuantizedLLM`` with a real model.

    Args:
        quantization: See ``QuantizedLLM`` for this argument and the following ones.
        batch_tokens: The tokens of a batch; None takes what fits.
        scoring: "expected" or "generate".
        cache: The file of the answers.
        replay: Whether to answer from the cache alone.
        max_tokens: The limit on the tokens of this process.
        seed: The seed of the sampling of longer histories.
    """

    def __init__(
        self,
        quantization: Quantization = "nf4",
        batch_tokens: int | None = None,
        scoring: Scoring = "expected",
        cache: str | None = None,
        replay: bool = False,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            str(FOLDER),
            quantization=quantization,
            device="cpu",
            batch_tokens=batch_tokens,
            prompts="books",
            scoring=scoring,
            cache=cache,
            replay=replay,
            max_tokens=max_tokens,
            history_tokens=512,
            seed=seed,
            calibrate=False,
        )
