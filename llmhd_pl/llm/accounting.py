"""What the language model has cost so far, and a hard budget."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from rich.table import Table


@dataclass
class Count:
    """What the prompts of one template have cost.

    Attributes:
        calls: The prompts that the model was given.
        cache_hits: The prompts whose answer was in the cache.
        prompt_tokens: The tokens of the prompts in ``calls``. A prefix that is computed once counts in each of them.
        answer_tokens: The tokens that the model generated.
        unanswered: The prompts without a valid answer, including those not asked because the budget was used up.
    """

    calls: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    unanswered: int = 0


_COLUMNS = tuple(field.name for field in fields(Count))


class Usage:
    """Calls and tokens per template.

    Attributes:
        templates: The counts of each template by its name, such as ``T_score``.
    """

    def __init__(self) -> None:
        self.templates: dict[str, Count] = {}

    @property
    def tokens(self) -> int:
        """The tokens of prompts and answers over all templates."""
        return sum(count.prompt_tokens + count.answer_tokens for count in self.templates.values())

    @property
    def calls(self) -> int:
        """The prompts that were asked over all templates."""
        return sum(count.calls for count in self.templates.values())

    def add(
        self,
        template: str,
        calls: int = 0,
        cache_hits: int = 0,
        prompt_tokens: int = 0,
        answer_tokens: int = 0,
        unanswered: int = 0,
    ) -> None:
        """Add to the counts of a template.

        Args:
            template: The name of the template, such as ``T_score``.
            calls: The prompts that the model was given; for this and the following see ``Count``.
            cache_hits: The prompts whose answer was in the cache.
            prompt_tokens: The tokens of the prompts.
            answer_tokens: The tokens that the model generated.
            unanswered: The prompts without a valid answer.
        """
        count = self.templates.setdefault(template, Count())
        for name, number in zip(_COLUMNS, (calls, cache_hits, prompt_tokens, answer_tokens, unanswered), strict=True):
            setattr(count, name, getattr(count, name) + number)

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Return the counts as plain Python, for a checkpoint."""
        return {template: asdict(count) for template, count in self.templates.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Replace the counts by those of a state dict.

        Args:
            state: What ``state_dict`` returned.
        """
        self.templates = {template: Count(**count) for template, count in state.items()}

    def table(self, title: str = "Language model") -> Table:
        """Return the counts as a table for the terminal, with one row per template and their sum.

        Args:
            title: The title of the table.
        """
        table = Table(title=title)
        table.add_column("template")
        for name in _COLUMNS:
            table.add_column(name.replace("_", " "), justify="right")
        rows = {template: asdict(count) for template, count in self.templates.items()}
        total = {name: sum(row[name] for row in rows.values()) for name in _COLUMNS}
        for template, row in rows.items():
            table.add_row(template, *(f"{row[name]:,}" for name in _COLUMNS))
        table.add_section()
        table.add_row("all", *(f"{total[name]:,}" for name in _COLUMNS))
        return table


class Budget:
    """Ends the asking before a number of tokens is exceeded.

    Call ``admits`` before asking anything, and afterwards add the cost to the usage. The first prompts that do not fit
    end the asking for the rest of the run, so that it does not go on with whatever is small enough.

    Args:
        usage: The tokens so far. A resumed run continues with what it had used before.
        max_tokens: The limit on the tokens of prompts and answers. Prompts count in full, even if their prefix is
            computed once. None is no limit.

    Attributes:
        exhausted: Whether something did not fit.

    Raises:
        ValueError: If the limit is negative.
    """

    def __init__(self, usage: Usage, max_tokens: int | None = None) -> None:
        if max_tokens is not None and max_tokens < 0:
            raise ValueError(f"max_tokens is {max_tokens}; it must be at least 0, or None for no limit.")
        self.usage, self.max_tokens = usage, max_tokens
        self.exhausted = False

    def admits(self, template: str, prompts: int, tokens: int) -> bool:
        """Return whether some prompts may be asked. If not, they count as unanswered, and must not be asked.

        Args:
            template: The name of the template.
            prompts: The number of prompts.
            tokens: The most tokens that they can cost, with answers of full length, plus those of prompts that were
                admitted but are not yet part of the usage.
        """
        if self.max_tokens is None:
            return True
        if not self.exhausted and self.usage.tokens + tokens > self.max_tokens:
            self.exhausted = True
            warnings.warn(
                f"The rest of the token budget is too small: {self.usage.tokens:,} of max_tokens={self.max_tokens:,} "
                f"are used, and what is asked next needs up to {tokens:,}. From here on the language model is not "
                "asked, and the loss alone decides. Resume with a higher max_tokens to go on.",
                stacklevel=2,
            )
        if self.exhausted:
            self.usage.add(template, unanswered=prompts)
        return not self.exhausted
