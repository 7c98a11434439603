"""FirstAnswers: ends a run whose model cannot answer, instead of asking it in vain for hours."""

import math
import textwrap
import warnings

from llmhd_pl.llm.thoughts import after_thought

ENOUGH = 8
"""If not one of so many first answers is valid, the fault is not in the questions."""


class FirstAnswers:
    """Looks at the answers of a local model until one of them is valid.

    Args:
        model: What to call the model in messages.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._invalid: dict[str, int] = {}  # by what was asked for, until there is a valid one
        self._answered: set[str] = set()

    def found_valid(self, what: str) -> None:
        """Note that the model can answer.

        Args:
            what: What was asked for, such as "score".
        """
        self._answered.add(what)

    def wrote(self, what: str, text: str, valid: bool) -> None:
        """Note what the model wrote.

        Args:
            what: What it was asked to write: "score" or "text".
            text: The answer.
            valid: Whether it has the form that was asked for.

        Raises:
            RuntimeError: If the first eight answers are not valid.
        """
        if self._goes_on(what, valid):
            return
        if text.strip() and not after_thought(text).strip():
            cause = (
                "It thinks before it answers, and its thoughts need more tokens than an answer has: take a model that "
                "does not think, or one whose chat template can switch that off"
            )
        elif not text.strip():
            cause = "It writes nothing: it may be broken, or its chat template may be that of another model"
        else:
            cause = (
                "It does not keep to the form that the prompt asks for: take a model that is trained to follow "
                "instructions, in no fewer bits than it stands (quantization)"
            )
        remedy = ", or scoring='expected', which needs no written score" if what == "score" else ""
        shown = textwrap.shorten(text, 300, placeholder="...")
        raise RuntimeError(
            f"None of the first {ENOUGH} answers of {self.model} is a valid {what}; the last one is {shown!r}. "
            f"{cause}{remedy}."
        )

    def rated(self, score: float, what: str = "expected score") -> None:
        """Note an expected score or a log-likelihood; one that is not finite is announced by a warning.

        Args:
            score: The score.
            what: What to call it in messages.

        Raises:
            RuntimeError: If the first eight scores are not finite.
        """
        valid = math.isfinite(score)
        if not valid and not self._invalid.get("rating"):
            warnings.warn(
                f"The {what} of a pair by {self.model} is {score}: its logits are not finite. The pair counts as "
                "unanswered, as do others with such a score.",
                stacklevel=2,
            )
        if not self._goes_on("rating", valid):
            raise RuntimeError(
                f"The first {ENOUGH} {what}s of {self.model} are not finite, so its logits overflow or its "
                "weights are broken. Load it with dtype 'float32' or quantization 'none', or load another copy of it."
            )

    def _goes_on(self, what: str, valid: bool) -> bool:
        """Count an answer; return whether there is reason to ask on."""
        if valid:
            self._answered.add(what)
        else:
            self._invalid[what] = self._invalid.get(what, 0) + 1
        return what in self._answered or self._invalid[what] < ENOUGH
