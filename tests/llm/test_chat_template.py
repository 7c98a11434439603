import shutil
import warnings
from pathlib import Path

import pytest
import torch
from source_tree import REPOSITORY
from test_causal_lm import CHATML, by_hand, make_model, make_tokenizer
from transformers import PreTrainedTokenizerFast

from llmhd_pl.llm.causal_lm import CausalLM
from llmhd_pl.llm.chat_template import frame
from llmhd_pl.llm.quantized import QuantizedLLM

CASES = REPOSITORY.parent / "shared" / "cases" / "templates"
USER = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
BEGIN = "{% if add_generation_prompt %}assistant: {% endif %}"
PARTS = (
    "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}"
    "{% endfor %}{{ '\n' }}{% endfor %}"
)


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(one_token_ten=True)
    tokenizer.chat_template = template
    tokenizer.name_or_path = "some/model"
    return tokenizer


def around(template: str) -> tuple[str, str]:
    tokenizer = with_template(template)
    before, after = (tokenizer.decode(ids) for ids in frame(tokenizer))
    return before, after


def begin(text: str) -> str:
    return USER + "{% if add_generation_prompt %}" + text + "{% endif %}"


# Templates that are as they should be


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (USER + BEGIN, ("user: ", "\nassistant: ")),
        (CHATML, ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think></think>")),
        ((USER + BEGIN).replace("m.content", "m.content | trim"), ("user: ", "\nassistant: ")),
        ("{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
         "{% endif %}{% endfor %}", ("[INST] ", " [/INST]")),
        ("Q: {{ messages[0].content }}\nA:", ("Q: ", "\nA:")),
        ("{{ bos_token }}" + USER + BEGIN, ("<s>user: ", "\nassistant: ")),
    ],
)  # fmt: skip
def test_a_good_template_is_taken_as_it_is(template: str, expected: tuple[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert around(template) == expected


def test_the_token_that_begins_a_text_is_there_once() -> None:
    for template in ("{{ bos_token }}" + USER + BEGIN, None):
        tokenizer = with_template(template or "")
        before, after = frame(tokenizer)
        assert before.count(tokenizer.bos_token_id) == 1 and tokenizer.bos_token_id not in after
    tokenizer.bos_token = None
    assert frame(tokenizer) == ([], [])  # a model that was not trained to chat


# Templates that lose or change the prompt


@pytest.mark.parametrize(
    "template",
    [
        PARTS + BEGIN,
        PARTS.replace("c.type == 'text'", "c['type'] == 'text'") + BEGIN,
        USER.replace("m.content", "m.content[0].text") + BEGIN,
        USER.replace("m.content", "(m.content | selectattr('type', 'eq', 'text') | first).text") + BEGIN,
    ],
)
def test_a_template_of_parts_gets_parts(template: str) -> None:
    assert around(template) == ("user: ", "\nassistant: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("''", "leaves out"),
        ("m.text", "leaves out"),
        ("m.content[0].nothing", "leaves out"),
        ("m.content[:1000]", "changes or cuts off"),
        ("m.content[-1000:]", "changes or cuts off"),
        ("m.content | truncate(60000)", "changes or cuts off"),
        ("m.content | upper", "changes or cuts off"),
        ("m.content | lower", "changes or cuts off"),
        ("m.content | title", "changes or cuts off"),
        ("m.content | e", "changes or cuts off"),
        ("m.content | tojson", "changes or cuts off"),
        ("m.content | striptags", "changes or cuts off"),
        ("m.content | wordwrap(40)", "changes or cuts off"),
        ("m.content.split() | join(' ')", "changes or cuts off"),
        ("m.content.replace('<s>', '')", "changes or cuts off"),
        ("m.content.replace('\\n', ' ')", "changes or cuts off"),
        ("m.content.split('</item>')[0]", "changes or cuts off"),
        ("m.content + m.content", "repeats"),
        ("m.content }}\n{{ m.content | upper", "repeats"),
        ("m.content[:50] }}\n{{ m.content", "repeats"),
        ("m.content }}\n{{ m.content[100:200]", "repeats"),
        ("raise_exception('only the role system')", "cannot be rendered .*only the role system"),
        ("m.content / 2", "cannot be rendered"),
        ("nothing.at.all", "cannot be rendered"),
        ("m.content | no_such_filter", "cannot be rendered"),
        ("m.content", r"does not begin the model's answer \(it ignores add_generation_prompt\)"),
    ],
)
def test_a_template_that_loses_or_changes_the_prompt_is_refused(content: str, problem: str) -> None:
    template = USER.replace("m.content", content) + ("" if "begin" in problem else BEGIN)
    with pytest.raises(ValueError, match=f"The chat template of 'some/model' {problem}.*chat_template.jinja"):
        around(template)
    if "begin" not in problem and "rendered" not in problem:
        parts = PARTS.replace("c.text", content.replace("m.content", "c.text")) + BEGIN
        with pytest.raises(ValueError, match=r"The chat template of 'some/model' (leaves out|changes|repeats|cannot)"):
            around(parts)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}",
        "{{ messages[0].content }}\n",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        "{% for m in messages %}USER {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}<turn>{{ m.content }}</turn>\n{% endfor %}",
    ],
)
def test_a_template_that_begins_no_answer_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"'some/model' does not begin the model's answer.*chat_template\.jinja"):
        around(template)


# Templates that begin an answer with a thought


@pytest.mark.parametrize(
    ("opened", "ended"),
    [
        ("ASSISTANT <think>\n", "ASSISTANT <think>\n\n</think>\n\n"),
        ("ASSISTANT <think>", "ASSISTANT <think>\n\n</think>\n\n"),
        ("<|Assistant|><think>\nOkay, ", "<|Assistant|><think>\nOkay, \n\n</think>\n\n"),
        ("assistant: <reasoning>\n", "assistant: <reasoning>\n\n</reasoning>\n\n"),
        ("assistant: <thought>", "assistant: <thought>\n\n</thought>\n\n"),
        ("assistant: <seed:think>", "assistant: <seed:think>\n\n</seed:think>\n\n"),
        ("assistant: [THINK]", "assistant: [THINK]\n\n[/THINK]\n\n"),
        ("<|START_THINKING|>", "<|START_THINKING|>\n\n<|END_THINKING|>\n\n"),
        ("assistant: <think></think><think>\n", "assistant: <think></think><think>\n\n</think>\n\n"),
        ("A <think>\n{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}", None),
        ("A {% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}", None),
        ("A {% if thinking is not defined or thinking %}<think>\n{% else %}</think>{% endif %}", None),
    ],
)
def test_a_thought_that_a_template_opens_is_ended(opened: str, ended: str | None) -> None:
    if ended is None:  # by the template, once it is told
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            after = around(begin(opened))[1]
    else:
        with pytest.warns(UserWarning, match=r"'some/model' begins every answer with a thought \('.*'\)"):
            after = around(begin(opened))[1]
        assert after == "\n" + ended
    assert not after.rstrip().endswith("<think>")


BLIND = "{% for m in messages %}USER {{ m.content }}\n{% endfor %}"  # to roles


@pytest.mark.parametrize(
    ("template", "opened", "what"),
    [
        (BLIND, "assistant<|channel|>analysis<|message|>", "a thought .*analysis.* that cannot be ended"),
        (BLIND, "assistant<|channel>thought\n", "a thought .* that cannot be ended"),
        (BLIND, "<|think|>", "a thought .* that cannot be ended"),
        (USER, "assistant: <ponder>\n", "'<ponder>', which is no part of an answer"),
        (USER, "assistant: Let me think step by step.\n", "'Let me think step by step.', which is no part"),
    ],
)
def test_a_beginning_that_cannot_be_ended_is_refused(template: str, opened: str, what: str) -> None:
    template += "{% if add_generation_prompt %}" + opened + "{% endif %}"
    with pytest.raises(ValueError, match=f"'some/model' begins every answer with {what}.*chat_template.jinja"):
        around(template)


@pytest.mark.parametrize("begun", ["", "<|channel|>analysis<|message|>"])
def test_an_answer_has_the_header_that_the_template_gives_to_answers(begun: str) -> None:
    """As gpt-oss writes: the model would choose the channel first, and no score begins with one."""
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
        "<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant" + begun + "{% endif %}"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if begun else "error")
        assert around(template) == (
            "<|start|>user<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        )


# What the model is then asked


def folder_with(tmp_path: Path, template: str) -> str:
    tokenizer = with_template(template)
    tokenizer.save_pretrained(tmp_path)
    make_model(tokenizer).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_bad_template_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    """Neither is the model loaded: no summary is paid for whose user cannot be judged."""
    folder = folder_with(tmp_path, USER.replace("m.content", "''") + BEGIN)
    scorer = QuantizedLLM(folder, quantization="none", device="cpu")
    with pytest.raises(ValueError, match=f"The chat template of '{folder}' leaves out"):
        scorer.prepare([{"title": "Otter"}], torch.empty(0, 2, dtype=torch.int64))
    assert "causal_lm" not in vars(scorer)
    with pytest.raises(ValueError, match="leaves out"):
        _ = scorer.causal_lm


def test_a_tokenizer_that_confuses_scores_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path, USER + BEGIN)
    monkeypatch.setattr("llmhd_pl.llm.quantized.plain_ids", lambda tokenizer, text: [0] * len(text.split()))
    nobody = torch.empty(0, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="same tokens"):
        QuantizedLLM(folder, quantization="none", device="cpu").prepare([{"title": "Otter"}], nobody)
    QuantizedLLM(folder, quantization="none", device="cpu", scoring="generate").prepare([{"title": "Otter"}], nobody)


@pytest.mark.parametrize("template", [PARTS + BEGIN, begin("ASSISTANT <think>\n")])
def test_the_scores_of_a_mended_template_are_those_of_the_whole_prompt(template: str) -> None:
    tokenizer = with_template(template)
    lm = CausalLM(make_model(tokenizer), tokenizer)
    ((_, scores, _),) = lm.rate([("The otter likes rivers.\n", ["fish", "x"])])
    end = "ASSISTANT <think>\n\n</think>\n\n" if "think" in template else "assistant: "
    for score, ending in zip(scores, ("fish", "x"), strict=True):
        prompt = f"user: The otter likes rivers.\n{ending}\n{end}"
        parts = ("user: ", "The otter likes rivers.\n", ending, f"\n{end}")  # as they are encoded
        ids = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]
        assert tokenizer.decode(ids) == prompt
        assert score == pytest.approx(by_hand(lm, ids), abs=1e-4)


@pytest.mark.parametrize("name", ["parts", "always-thinks"])
def test_the_templates_that_failed(name: str, tmp_path: Path) -> None:
    path = CASES / f"{name}.jinja"
    if not path.is_file():
        pytest.skip("shared/cases is not there; the same templates are above")
    tokenizer = with_template("x")
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(path, tmp_path / "chat_template.jinja")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = (tokenizer.decode(ids) for ids in frame(PreTrainedTokenizerFast.from_pretrained(tmp_path)))
    assert before == "USER " and after.strip() in ("ASSISTANT", "ASSISTANT <think>\n\n</think>")
