"""Wording: learns which options of a request a server refuses, whatever words it uses to say so."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from llmhd_pl.llm.endpoint_faults import (
    Options,
    cause_of,
    may_be_about_options,
    message_of,
    passes,
    words_of,
)
from llmhd_pl.llm.endpoint_http import Answer


class Wording:
    """How a server wants to be asked.

    A refusal that names an option is tried again without it, or with fewer candidates per token if it says how many are
    allowed. A refusal that names none, before anything was accepted, is tried without each of the options, and without
    all. What is then accepted is how everything else is asked.

    Attributes:
        options: The options that are left.
        varying: Why the temperature is not 0; empty if it is.
        no_probabilities: Why no probabilities are asked for; empty if they are.
    """

    def __init__(self) -> None:
        self.options = Options()
        self.varying = self.no_probabilities = ""
        self._settled = False  # whether a refusal that names no option is known to be about something else

    async def ask(self, send: Callable[[Options], Awaitable[Answer]], probabilities: bool) -> Answer:
        """Send a request in the wording that the server accepts.

        Args:
            send: Sends the request with some options.
            probabilities: Whether to ask for probabilities too.

        Returns:
            The first answer that is no refusal of an option. If leaving options out helps nothing, the first refusal.
        """
        options = self.options if probabilities else replace(self.options, top=0)
        answer = await send(options)
        steps: list[tuple[Options, Options, str]] = []
        while is_refusal(answer) and (simpler := options.without_what_is_named(words_of(answer.body))):
            steps.append((options, simpler, message_of(answer.body)))
            options = simpler
            answer = await send(options)
        if not is_refusal(answer):
            if 200 <= answer.status < 300:
                self._learn(steps)
            return answer
        if not steps and not self._settled and may_be_about_options(answer.status, words_of(answer.body)):
            for variant in options.variants():
                other = await send(variant)
                if 200 <= other.status < 300:
                    self._learn([(options, variant, message_of(answer.body))])
                    return other
                if not is_refusal(other):
                    return other
            self._settled = True
        return answer

    def _learn(self, steps: list[tuple[Options, Options, str]]) -> None:
        self._settled = True
        for before, after, message in steps:
            if before.greedy and not after.greedy:
                self.varying = message
            if before.top and not after.top:
                self.no_probabilities = message
            top = after.top if before.top else self.options.top  # probabilities may not have been wanted
            self.options = self.options.both(replace(after, top=top))


def is_refusal(answer: Answer) -> bool:
    """Return whether an answer may mean that an option is refused.

    Args:
        answer: The answer.
    """
    if answer.status < 400 or cause_of(answer.status, words_of(answer.body), answer.retry_after) == "quota":
        return False
    return answer.status >= 500 or not passes(answer.status)
