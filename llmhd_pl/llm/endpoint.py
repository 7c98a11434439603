"""EndpointScorer: a language model behind a server that speaks OpenAI's protocol."""

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence

from llmhd_pl.llm.asked_model import WRITTEN_SCORE_TOKENS, Scoring
from llmhd_pl.llm.asking import Rating
from llmhd_pl.llm.endpoint_client import EndpointClient
from llmhd_pl.llm.endpoint_reply import EndpointReply
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.llm.prompts import T_SCORE, parse_profile, parse_score, parse_summary
from llmhd_pl.llm.texts import approximate_tokens
from llmhd_pl.llm.token_probabilities import expected_of_candidates


class EndpointScorer(LanguageModelScorer):
    """A language model on a server with OpenAI's chat completions: vLLM, SGLang, llama.cpp, OpenAI and others.

    With ``scoring="expected"``, the model writes one answer per pair, which comes with the probabilities of its
    tokens, and the score is the mean of 1 to 10 under these: see ``expected_of_candidates``. An answer that comes
    without probabilities is read as ``<s>N</s>``. A warning announces that, ``read_from_text`` counts it, and the
    cache marks it, so that a run which finds such an answer in the cache announces and counts it too.

    What may pass is tried again: lost connections, timeouts, and the statuses 408, 409, 425, 429 and 5xx, with
    exponential backoff or as the server's ``Retry-After`` says (up to two minutes). What still fails then, every other
    4xx, and every answer that is not the protocol's JSON is an unanswered prompt that cost no tokens and is asked again
    when it is needed next. A warning announces the first one of each kind, and ``fault`` is the last one. An answer of
    the model's that is not of the form that was asked for is paid for, and not asked for again by this process.

    Options of a request that a server refuses are left out, whatever the words of its refusal: fewer candidates per
    token or none, ``max_completion_tokens`` for ``max_tokens``, the model's own temperature for 0. A warning announces
    the latter, because answers then vary. A finished thought before an answer, such as an empty ``<think></think>``, is
    skipped; a thought in its place is no answer.

    Tokens are counted as the server's ``usage`` says. If it says nothing that can be right, and for checking the budget
    before a batch is asked, four bytes count as a token, so one batch can overdraw the budget by as much as it was
    estimated too low.

    The fingerprint contains the name of the model but not the server: a different model of the same name needs a
    different cache.

    Args:
        model: The name of the model on the server.
        base_url: The address of the server, such as ``http://localhost:8000/v1``. Redirects are not followed.
        api_key: The key. None takes the environment variable OPENAI_API_KEY; if that is not set either, the server is
            assumed to need none. Prefer the variable: a key given here ends up in the saved configuration of the run.
        concurrency: The most requests in flight at once.
        timeout: The seconds without a sign of life after which a request has failed; twice as many are its limit in
            all, however lively the server seems.
        retries: The number of further tries of a request that failed.
        prompts: See ``LanguageModelScorer`` for this argument and the following ones.
        scoring: "expected" or "generate".
        cache: The file of the answers.
        replay: Whether to answer from the cache alone.
        max_tokens: The limit on tokens.
        item_tokens: The most tokens of an item's profile.
        history_tokens: The most tokens of a history that is summarised.
        seed: The seed of the sampling of longer histories, and of the pairs that scores are calibrated on.
        calibrate: Whether scores are calibrated on observed and random pairs; False takes them as the model gives them.

    Raises:
        ValueError: If an argument makes no sense.
        ImportError: If openai is not installed. This and the following are raised when the server is first asked.
        RuntimeError: If the server refuses the key (401, 403), knows no such model or address (404), redirects, or
            asks for credit (402, or a 429 about a quota); if it failed for eight prompts in a row; or if none of the
            first eight or more scores, or texts, that were asked for came in the right form.
        ConnectionError: If no request of a batch, or of eight in a row, got any answer, at the start or later.
    """

    rated_tokens = WRITTEN_SCORE_TOKENS

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 4,
        prompts: str = "neutral",
        scoring: Scoring = "expected",
        cache: str | None = None,
        replay: bool = False,
        max_tokens: int | None = None,
        item_tokens: int = 64,
        history_tokens: int = 1024,
        seed: int = 0,
        calibrate: bool = True,
    ) -> None:
        if scoring == "likelihood":
            raise ValueError(
                "scoring='likelihood' needs the probabilities of a given text, which a server does not give. Take "
                "QuantizedLLM, or scoring 'expected' or 'generate'."
            )
        self._client = EndpointClient(model, base_url, api_key, concurrency, timeout, retries)
        self._refused = ""
        super().__init__(prompts, scoring, cache, replay, max_tokens, item_tokens, history_tokens, seed, calibrate)
        self.model = model
        self.chunk = max(self.chunk, 4 * concurrency)  # so that few others wait for the last requests of a chunk
        self.read_from_text = 0
        """The scores that ``scoring="expected"`` had to read from the text, including those in the cache."""

    @property
    def refused(self) -> str:
        """The last answer that did not have the form that was asked for, without the key if the server echoes it."""
        return self._refused

    @refused.setter
    def refused(self, answer: str) -> None:
        self._refused = self._client.secrets.mask(answer)

    @property
    def model_fingerprint(self) -> dict[str, str]:
        """The model's name, and that it was asked through a server."""
        return {"model": self.model, "protocol": "chat completions"}

    def count_tokens(self, text: str) -> int:
        """Return the approximate number of tokens of a text; the protocol has no way to ask for the exact one."""
        return approximate_tokens(text)

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        """Let the model complete prompts at temperature 0.

        Args:
            prompts: The prompts.
            max_new_tokens: The most tokens of an answer.

        Yields:
            The number of each prompt, its completion (None if there is no answer), the tokens of the prompt and those
            of the answer, in the order in which they arrive.
        """
        form = "scores" if max_new_tokens == WRITTEN_SCORE_TOKENS else "texts"
        for number, reply in self._client.replies(prompts, max_new_tokens, False, form, _is_useful):
            self.fault = reply.fault or self.fault
            yield number, reply.text, reply.prompt_tokens, reply.answer_tokens

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        """Compute expected scores.

        Args:
            groups: Prompts with a common beginning: the beginning and the endings.

        Yields:
            Ratings in the order in which they arrive. Their score is an int if it was read from the text.
        """
        places = [(group, ending) for group, (_, endings) in enumerate(groups) for ending in range(len(endings))]
        prompts = [groups[group][0] + groups[group][1][ending] for group, ending in places]
        for index, reply in self._client.replies(prompts, self.rated_tokens, True, "scores", _is_useful):
            self.fault = reply.fault or self.fault
            score = _score(reply)
            if score is None and reply.text is not None:
                self.refused = reply.text
            if isinstance(score, int):
                self._count_read_from_text(1, reply.no_probabilities)
            yield Rating(*places[index], score, reply.prompt_tokens, reply.answer_tokens)

    def on_cached_answers(self, template: str, answers: Collection[str]) -> None:
        """Count the cached scores that were read from the text, and note that the model can answer.

        Args:
            template: The name of the template.
            answers: The answers, as they are kept: an int as "7", a mean under probabilities as "7.0".
        """
        if answers:
            self._client.can_answer("scores" if template == T_SCORE else "texts")
        if template == T_SCORE and self.scoring == "expected":
            self._count_read_from_text(sum("." not in answer for answer in answers), "they are in the cache")

    def _count_read_from_text(self, count: int, why: str) -> None:
        first = count > 0 and self.read_from_text == 0
        self.read_from_text += count
        if first:
            warnings.warn(
                f"Scores of {self.model} are whole numbers read from its answers instead of means under the "
                f"probabilities of its tokens: the server gave none ({why}). read_from_text counts them.",
                stacklevel=2,
            )


def _is_useful(text: str) -> bool:
    return any(parse(text) is not None for parse in (parse_score, parse_summary, parse_profile))


def _score(reply: EndpointReply) -> float | None:
    """Return a float computed from the probabilities, or an int read from the text; None if the text is no score."""
    number = None if reply.text is None else parse_score(reply.text)
    if number is None or reply.positions is None:
        return number
    expected = expected_of_candidates(reply.positions, number)
    return number if expected is None else expected
