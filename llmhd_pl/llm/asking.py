"""PaidAnswers: asks a model only what no cache knows and the budget allows, and keeps every valid answer at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from llmhd_pl.llm.accounting import Budget, Usage
from llmhd_pl.llm.cache import Answer, AnswerCache
from llmhd_pl.llm.digest import digest
from llmhd_pl.llm.progress import AskingBar

_WRITTEN_TOGETHER = 32  # answers in one transaction of the cache, which takes about a millisecond
Question = TypeVar("Question")


class Reply(NamedTuple):
    """What a model answered to a prompt, and what it cost."""

    prompt: str
    """The prompt."""
    answer: str | None
    """The answer as it is kept; None if there is no valid one."""
    prompt_tokens: int
    """The tokens of the whole prompt."""
    answer_tokens: int
    """The tokens that the model wrote."""


class Rating(NamedTuple):
    """An expected score and what it cost."""

    group: int
    """The number of the group that it belongs to."""
    ending: int
    """The number of the ending, within the group, that it is about."""
    score: float | None
    """The score, 1 to 10; None if there is no answer."""
    prompt_tokens: int
    """The tokens of the whole prompt."""
    answer_tokens: int
    """The tokens that the model wrote."""


class PaidAnswers:
    """The answers of a model, each of which is paid for once: in a cache file, or in memory for this process.

    An answer that is not valid was paid for, too: its prompt is not asked again by this process. A reply that cost
    nothing, because a server was down, for example, is no answer: its prompt is asked again when it is needed next.

    Args:
        fingerprint: Returns who answers. It is called only if there is a cache, because it may hash a model's files.
        cache: The cache file; None keeps the answers in memory.
        usage: The calls and tokens so far; what is asked is added to it.
        budget: The limit on ``usage``.
    """

    def __init__(self, fingerprint: Callable[[], str], cache: AnswerCache | None, usage: Usage, budget: Budget) -> None:
        self._fingerprint, self._cache, self._usage, self._budget = fingerprint, cache, usage, budget
        self._memory: dict[str, str] = {}  # instead of a cache: answers by the hash of the prompt
        self._refused: set[str] = set()  # hashes of prompts that the model has answered with something invalid

    def known(self, template: str, prompts: Sequence[str]) -> dict[str, str]:
        """Look up answers, and count those that are found as cache hits.

        Args:
            template: The name of the template, such as ``T_score``.
            prompts: The rendered prompts.

        Returns:
            The answers by prompt; prompts without an answer are left out.
        """
        if self._cache is not None:
            found = self._cache.get(self._fingerprint(), prompts, template)
        else:
            keys = {prompt: _key(prompt) for prompt in prompts}
            found = {prompt: self._memory[key] for prompt, key in keys.items() if key in self._memory}
        if found:
            self._usage.add(template, cache_hits=len(found))
        return found

    def is_to_be_asked(self, prompt: str, found: Mapping[str, str]) -> bool:
        """Return whether a prompt has no answer, and the model has not given an invalid one either.

        Args:
            prompt: The rendered prompt.
            found: What ``known`` returned.
        """
        return prompt not in found and _key(prompt) not in self._refused

    def ask(
        self,
        template: str,
        what: str,
        questions: Sequence[Question],
        chunk: int,
        count_prompts: Callable[[Question], int],
        most_tokens: Callable[[Question], int],
        replies: Callable[[Sequence[Question]], Iterator[Reply]],
    ) -> dict[str, str]:
        """Ask questions a chunk at a time, as far as the budget allows, while showing a progress bar.

        Args:
            template: The name of the template.
            what: What is asked about, for the progress bar.
            questions: The questions; one of them may consist of several prompts.
            chunk: The number of questions that are asked together.
            count_prompts: Returns the number of prompts of a question.
            most_tokens: Returns the most tokens that a question can cost. It is called only if the budget has a limit.
            replies: Asks the model some questions and yields a reply for each of their prompts.

        Returns:
            The valid answers by prompt.
        """
        found: dict[str, str] = {}
        with AskingBar(what, sum(map(count_prompts, questions))) as advance:
            for start in range(0, len(questions), chunk):
                asked = questions[start : start + chunk]
                admitted = self._admitted(template, asked, count_prompts, most_tokens)
                found |= self._keep_as_they_arrive(template, replies(admitted), advance)
                advance(sum(map(count_prompts, asked)) - sum(map(count_prompts, admitted)))
        return found

    def _admitted(
        self,
        template: str,
        questions: Sequence[Question],
        count_prompts: Callable[[Question], int],
        most_tokens: Callable[[Question], int],
    ) -> list[Question]:
        """Return the questions that the budget allows."""
        if self._budget.max_tokens is None:
            return list(questions)
        admitted: list[Question] = []
        pending = 0
        for question in questions:
            cost = 0 if self._budget.exhausted else most_tokens(question)
            if self._budget.admits(template, count_prompts(question), pending + cost):
                admitted.append(question)
                pending += cost
        return admitted

    def _keep_as_they_arrive(
        self, template: str, replies: Iterator[Reply], advance: Callable[[int], None]
    ) -> dict[str, str]:
        """Count replies and keep their answers a few at a time, even if the next reply fails: they are paid for."""
        found: dict[str, str] = {}
        refused: set[str] = set()
        unwritten: list[Answer] = []
        try:
            for prompt, answer, prompt_tokens, answer_tokens in replies:
                self._usage.add(template, 1, 0, prompt_tokens, answer_tokens, int(answer is None))
                if answer is not None:
                    found[prompt] = answer
                    unwritten.append(Answer(prompt, answer, prompt_tokens, answer_tokens))
                elif prompt_tokens + answer_tokens > 0:
                    refused.add(_key(prompt))
                if len(unwritten) == _WRITTEN_TOGETHER:
                    self._keep(template, unwritten)
                    unwritten = []
                advance(1)
        finally:
            self._keep(template, unwritten)
        self._refused |= refused  # but not if all of it ended in an error: what is mended then may answer
        return found

    def _keep(self, template: str, answers: list[Answer]) -> None:
        if self._cache is not None and answers:
            self._cache.put(self._fingerprint(), template, answers)
        elif self._cache is None:
            self._memory |= {_key(answer.prompt): answer.answer for answer in answers}


def _key(prompt: str) -> str:
    return digest(prompt.encode(errors="replace"))
