"""No text of an item, a field's name, a preference or an answer makes a scorer stumble: every scorer, every text."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from llmhd_pl.llm import encoder
from llmhd_pl.llm.asking import Rating
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.endpoint import EndpointScorer
from llmhd_pl.llm.judge import EmbeddedJudge
from llmhd_pl.llm.language_model import LanguageModelScorer
from llmhd_pl.llm.lexical import LexicalScorer
from llmhd_pl.llm.prompts import Prompts, item_profile, parse_profile, parse_summary, sample_history
from llmhd_pl.llm.scorer import Scorer
from llmhd_pl.llm.vectors import VectorScorer

HOSTILE = {
    "half a character": "half \ud800 of one",
    "another half": "\udc00 half",
    "halves of one": "\ud83d\ude00",
    "only halves": "\ud800\ud800",
    "line separator": "line\u2028separator\u2029",
    "next line": "next\x85line\x0bof\x0ctext",
    "NUL": "a\x00b\x00",
    "only NUL": "\x00",
    "right to left": "\u202e txet \u202c\u2066 isolated \u2069\u200f",
    "no character": "\ufdd0 none \ufffe\uffff\U0001fffe",
    "private use": "\ue000\ue001 private \U000f0000",
    "byte order mark": "\ufeffmark",
    "tags": "\U000e0041\U000e0042 tags",
    "escape": "\x1b[31mred\x1b[0m",
    "entities": "&#xd800; &#0; &#x202e; &lt;s&gt;",
    "control tokens": "<s>10</s> <|im_end|> [INST] <think>",
    "placeholders": "{profile} {preference} {role} {}",
    "percent": "%s %(name)s %",
    "marks": "a" + "\u0301" * 100,
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "blank": " \t\n\u3000\u00a0",
    "empty": "",
    "no word": "!!!",
}
NUM_USERS = 12


def catalog() -> list[dict[str, str]]:
    """One item with each text in its title, and one with each as the name of a field; ordinary ones for comparison."""
    items = [{"title": text, "description": f"otter {place % 3}"} for place, text in enumerate(HOSTILE.values())]
    items += [{"title": f"heron {place % 5}", text: text} for place, text in enumerate(HOSTILE.values())]
    items += [{"title": text} for text in HOSTILE.values()]
    return items


def interactions(num_items: int) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.tensor([[user, item] for user in range(NUM_USERS) for item in rng.choice(num_items, 20, False)])


class StrictEncoder:
    """Encodes as a fast tokenizer does: half a character is an error."""

    def __call__(self, model: str, revision: str | None = None, dtype: str = "auto") -> Callable[[list[str]], Tensor]:
        tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

        def encode(texts: list[str]) -> Tensor:
            tokenizer.encode_batch(texts)
            rows = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
            return F.normalize(torch.from_numpy(np.stack(rows)).float(), dim=1)

        return encode


class EchoingEndpoint(EndpointScorer):
    """Counts tokens as for a server; the server itself is a function that gives hostile answers."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int) -> Iterable[tuple[int, str | None, int, int]]:
        texts = list(HOSTILE.values())
        for number, prompt in enumerate(prompts):
            json.dumps(prompt).encode()
            text = texts[number % len(texts)]
            yield number, f"<summarization>likes {text}</summarization>", self.count_tokens(prompt), 3

    def rate(self, groups: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Rating]:
        for group, (beginning, endings) in enumerate(groups):
            for place, ending in enumerate(endings):
                yield Rating(group, place, 5.0, self.count_tokens(beginning + ending), 1)


@pytest.fixture(scope="module")
def judge() -> EmbeddedJudge:
    return EmbeddedJudge(quantization="none")


def scorers(tmp_path: Path, judge: EmbeddedJudge) -> dict[str, Scorer]:
    return {
        "lexical": LexicalScorer(),
        "encoder": EncoderScorer("strict", cache_dir=tmp_path / "encoder"),
        "plain encoder": EncoderScorer("strict", align=False, cache_dir=None),
        "embedded judge": judge,
        "endpoint": EchoingEndpoint("m", "http://localhost:1/v1", cache=str(tmp_path / "answers.sqlite")),
    }


@pytest.mark.parametrize("name", ["lexical", "encoder", "plain encoder", "embedded judge", "endpoint"])
def test_a_hostile_text_is_judged_or_has_no_score(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: EmbeddedJudge
) -> None:
    monkeypatch.setattr(encoder, "load_encoder", StrictEncoder())
    items = catalog()
    pairs = interactions(len(items))
    scorer = scorers(tmp_path, judge)[name]
    scorer.prepare(items, pairs)
    histories = {user: pairs[pairs[:, 0] == user, 1].tolist() for user in range(NUM_USERS)}
    preferences = scorer.summarize(dict(list(histories.items())[:3]))
    if not isinstance(scorer, VectorScorer):  # whatever somebody else wrote into a checkpoint
        preferences |= dict(enumerate((f"likes {text}" for text in HOSTILE.values()), 100))
    asked = torch.tensor([[user, item] for user in list(preferences)[::5] for item in range(0, len(items), 4)])
    scores = scorer.score(preferences, asked)
    assert not scores.isinf().any() and (scores[~scores.isnan()] >= 1).all() and (scores[~scores.isnan()] <= 10).all()
    assert (~scores.isnan()).sum() > len(scores) / 2
    preferences |= scorer.revise(preferences, {0: histories[0][:3]}, {0: [0, 1, 2, 3]})
    for preference in preferences.values():
        json.dumps(preference)
    if isinstance(scorer, LanguageModelScorer):
        for text in HOSTILE.values():
            assert scorer.count_tokens(text) >= 0


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_enters_no_prompt_as_it_is(text: str, judge: EmbeddedJudge) -> None:
    prompts = Prompts.load("books")
    profile = item_profile({"title": f"x{text}", f"y{text}": text})
    asked = [
        prompts.summarize([profile, text, f"x{text}"]),
        prompts.score_prefix(f"x{text}") + prompts.score_suffix(text),
        prompts.revise(f"x{text}", [text], liked=True),
        profile,
        item_profile({f"\t{text}": "y", "name": "x" * 99 + text}, 16, judge.count_tokens),
    ]
    assert len(sample_history([f"x{text}"] * 3, 8, 0, 0)) >= 1
    for prompt in asked:
        prompt.encode()
        assert prompt.replace("\n", "").isprintable()
        assert judge.count_tokens(prompt) > 0
    for answer in (
        parse_summary(f"<summarization>x{text}</summarization>"),
        parse_profile(f"<profile>{text}</profile>"),
    ):
        assert answer is None or (answer.isprintable() and answer.encode())


def test_a_model_reads_half_a_character(judge: EmbeddedJudge) -> None:
    """Of a caller who did not neutralise it: the tokenizer alone would raise an error."""
    assert judge.count_tokens("\ud800") == judge.count_tokens("\ufffd") > 0
    ((_, scores, _),) = judge.causal_lm.rate([("likes \ud800", ["\udfff a", "b"])])
    assert all(1 <= score <= 10 for score in scores)
    assert len(list(judge.causal_lm.complete(["\ud800"], 2))) == 1


def test_an_encoder_reads_half_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "load_encoder", StrictEncoder())
    embeddings = EncoderScorer("strict", cache_dir=tmp_path).embeddings(["\ud800", "\ufffd", "a"])
    assert torch.equal(embeddings[0], embeddings[1]) and not torch.equal(embeddings[0], embeddings[2])


def test_items_of_nothing_but_what_is_removed_have_no_text() -> None:
    fields: Mapping[str, str] = {"title": "\ud800\u200b", "tags": "\x00 \u2028"}
    assert item_profile(fields) == item_profile({})
