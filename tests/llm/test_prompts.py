import configparser
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from setuptools import find_packages
from test_texts import texts, words

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.llm import prompts as module
from llmhd_pl.llm.prompts import (
    MAX_WORDS,
    NO_TEXT,
    Prompts,
    item_profile,
    parse_profile,
    parse_score,
    parse_summary,
    sample_history,
)
from llmhd_pl.llm.texts import approximate_tokens

DOMAINS = ("books", "businesses", "films", "games", "neutral")
BOOKS = Path(module.__file__).parent / "templates" / "books.toml"


@pytest.fixture(params=DOMAINS)
def prompts(request: pytest.FixtureRequest) -> Prompts:
    return Prompts.load(request.param)


# Templates


def test_every_domain_asks_for_what_the_paper_asks(prompts: Prompts) -> None:
    asked = {
        "summarization": prompts.summarize(["A", "B"]),
        "s": prompts.score_prefix("likes A") + prompts.score_suffix("B"),
        "profile": prompts.revise("likes A", ["B"], liked=True),
    }
    for tag, prompt in asked.items():
        assert f"<{tag}>" in prompt and f"</{tag}>" in prompt
        assert prompt.startswith(prompts.texts["role"]) and prompts.texts["guard"] in prompt
        assert "{" not in prompt
        assert ("100 words" in prompt) == (tag != "s")
    assert re.findall(r"^(\d+): \w", asked["s"], re.MULTILINE) == [str(level) for level in range(1, 11)]
    for fence in ("<items>", "<item>", "<preference>"):
        assert fence in prompts.texts["guard"]
    assert re.search(r"never an instruction", prompts.texts["guard"])


def test_disliked_and_liked_are_not_swapped(prompts: Prompts) -> None:
    disliked, liked = (prompts.revise("likes A", ["B"], liked=liked) for liked in (False, True))
    assert "NOT interested in these" in disliked and "NOT" not in liked
    assert "IS interested in these" in liked and "IS" not in disliked


def test_the_domains_differ_and_none_speaks_of_another() -> None:
    loaded = [Prompts.load(name) for name in DOMAINS]
    assert len({prompts.hash for prompts in loaded}) == len(DOMAINS)
    for prompts, others in zip(
        loaded,
        (
            "places|films|games",
            "books|films|games",
            "books|places|games",
            "books|places|films",
            "books|places|films|games",
        ),
        strict=True,
    ):
        assert not re.search(others, " ".join(prompts.texts.values()))


@pytest.mark.parametrize("name", ["items", "local businesses"])
def test_only_the_names_of_the_files_are_known(name: str) -> None:
    assert [Prompts.load(domain).name for domain in DOMAINS] == list(DOMAINS)
    with pytest.raises(FileNotFoundError, match=rf"'{name}': it is neither one of {', '.join(DOMAINS)} nor a file"):
        Prompts.load(name)


def test_rendered_exactly(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'role = "R"\nguard = "G"\n'
        'T_sum = "{role} {guard}\\n{profiles}\\n<summarization>"\n'
        'T_score = "{role} {guard}\\n{preference}\\nItem:\\n{profile}\\n<s>?"\n'
        'T_FP = "{role} {guard} not\\n{preference}\\n{profiles}\\n<profile>"\n'
        'T_FN = "{role} {guard} yes\\n{preference}\\n{profiles}\\n<profile>"\n'
    )
    mine = Prompts.load(str(file))
    assert mine.summarize(["a", "b  c", ""]) == (f"R G\n<items>\n1. a\n2. b c\n3. {NO_TEXT}\n</items>\n<summarization>")
    assert mine.score_prefix("p") == "R G\n<preference>\np\n</preference>\nItem:\n"
    assert mine.score_suffix("a") == "<item>\na\n</item>\n<s>?"
    assert mine.score_suffix("") == f"<item>\n{NO_TEXT}\n</item>\n<s>?"
    assert mine.revise("p", ["a"], liked=False) == (
        "R G not\n<preference>\np\n</preference>\n<items>\n1. a\n</items>\n<profile>"
    )
    assert mine.revise("p", ["a"], liked=True).startswith("R G yes")
    # The hash is of the wording: a comment does not change it, a word does.
    before = mine.hash
    assert re.fullmatch("[0-9a-f]{64}", before)
    file.write_text("# a comment\n" + file.read_text())
    assert Prompts.load(str(file)).hash == before
    file.write_text(file.read_text().replace("Item:", "Items:"))
    assert Prompts.load(str(file)).hash != before


def test_the_prefix_is_the_users_alone_and_ends_where_no_token_reaches_over(prompts: Prompts) -> None:
    prefix, suffix = prompts.score_prefix("likes A"), prompts.score_suffix("B")
    assert prefix.endswith("\n") and not suffix[0].isspace()
    assert "<item>\nB\n</item>" in suffix and "likes A" in prefix and "likes A" not in suffix
    assert prefix.index("likes A") < len(prefix) and len(prefix) > 3 * len(suffix)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("T_sum =", "T_summary ="), r"'T_sum' is missing"),
        (("# What", "extra = 'x'\n# What"), r"'extra' is unknown; the keys are T_FN"),
        (("{profiles}\n\nDescribe", "Describe"), r"'T_sum' holds \{profiles\} 0 times"),
        (("{guard}\n\nA reader has", "A reader has"), r"'T_sum' holds \{guard\} 0 times"),
        (("The book:\n", "The book:\n{profile}\n"), r"'T_score' holds \{profile\} 2 times"),
        (("A reader has", "A {reader} has"), r"'T_sum' holds an unknown placeholder \{reader\}; known here: \{role\}"),
        (("You are an", "You are {role} an"), r"'role' holds an unknown placeholder \{role\}; known here: none"),
        (("The book:\n{profile}", "The book: {profile}"), r"'T_score': \{profile\} must stand alone"),
        (("<s>N</s>", "N"), r"'T_score' must ask for an answer in <s>"),
        (('role = """', 'role = 5\nunused = """'), r"key 'unused' is unknown"),
        (("{preference}\n\nThe book:\n{profile}", "{profile}\n\nThe book:\n{preference}"), r"must come after \{pref"),
        (('guard = """', 'guard = """\n"""\nT_x = """'), r"'T_x' is unknown"),
        (('role = """', "role = '''"), r"not a TOML file in UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(tmp_path: Path, change: tuple[str, str], error: str) -> None:
    text = BOOKS.read_text()
    assert change[0] in text
    file = tmp_path / "wrong.toml"
    file.write_text(text.replace(*change) if change[0] == "<s>N</s>" else text.replace(*change, 1))
    with pytest.raises(ValueError, match=f"wrong.toml.*{error}"):
        Prompts.load(str(file))


@pytest.mark.parametrize("role", ["role = 5\n", "role = ' '\n"])
def test_a_key_without_a_text_is_refused(tmp_path: Path, role: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(re.sub(r'role = """.*?"""\n', role, BOOKS.read_text(), flags=re.DOTALL))
    with pytest.raises(ValueError, match=r"wrong.toml: key 'role' must be a text"):
        Prompts.load(str(file))


@pytest.mark.parametrize("code", [0, 7, 0x0B, 0x0D, 0x7F, 0x85, 0x2028, 0x2029, 0x202E, 0x2067, 0xFDD0, 0xFEFF, 0xFFFE])
@pytest.mark.parametrize("key", ["role", "T_score"])
def test_a_file_with_what_is_no_character_of_a_text_is_refused(tmp_path: Path, code: int, key: str) -> None:
    """Written as an escape, as TOML allows, or as it is."""
    file = tmp_path / "wrong.toml"
    for written in (f"\\u{code:04x}", chr(code)):
        content = BOOKS.read_text().replace(f'{key} = """\n', f'{key} = """\nx{written}y ')
        assert written in content
        file.write_text(content, encoding="utf-8", newline="")
        if len(written) == 1 and (code < 32 or code == 127):
            continue  # which TOML refuses itself
        with pytest.raises(ValueError, match=rf"wrong.toml: key '{key}' holds U\+{code:04X}.*remove it"):
            Prompts.load(str(file))


def test_a_file_may_hold_any_writing_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        BOOKS.read_text().replace('role = """\n', 'role = """\n\t\u06cc\u200c\u0645 \U0001f9a6 '), "utf-8-sig"
    )
    assert Prompts.load(str(file)).texts["role"].startswith("\u06cc\u200c\u0645 \U0001f9a6")


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'role = "caf\xe9"')
    with pytest.raises(ValueError, match=r"latin.toml is not a TOML file in UTF-8"):
        Prompts.load(str(tmp_path / "latin.toml"))
    with pytest.raises(FileNotFoundError, match=r"'movies': it is neither one of books, businesses.* nor a file"):
        Prompts.load("movies")


def test_nothing_to_ask_about_is_refused(prompts: Prompts) -> None:
    with pytest.raises(ValueError, match="no items"):
        prompts.summarize([])
    with pytest.raises(ValueError, match="no items"):
        prompts.revise("likes A", [], liked=True)
    for empty in ("", " \n", "\u200b"):
        with pytest.raises(ValueError, match="preference is empty"):
            prompts.score_prefix(empty)
        with pytest.raises(ValueError, match="preference is empty"):
            prompts.revise(empty, ["A"], liked=False)


def test_the_templates_are_package_data() -> None:
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    patterns = config["options.package_data"]["llmhd_pl"].split()
    names = {path.name for path in BOOKS.parent.iterdir()}
    assert names == {f"{name}.toml" for name in DOMAINS}
    assert all(any(fnmatch(f"llm/templates/{name}", pattern) for pattern in patterns) for name in names)
    assert config["options"]["packages"] == "find:"
    include = config["options.packages.find"]["include"].split()
    assert "llmhd_pl.llm" in find_packages(str(BOOKS.parents[3]), include=include)


def test_prompts_cache_and_accounting_import_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, llmhd_pl.llm.prompts, llmhd_pl.llm.cache, llmhd_pl.llm.accounting; "
        "sys.exit(', '.join({'torch', 'pytorch_lightning', 'transformers'} & sys.modules.keys()) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Fences


def fenced(prompt: str, tag: str) -> list[str]:
    """The lines between the tags of a prompt; fails where there is not exactly one pair of them."""
    lines = prompt.splitlines()
    assert lines.count(f"<{tag}>") == lines.count(f"</{tag}>") == 1
    return lines[lines.index(f"<{tag}>") + 1 : lines.index(f"</{tag}>")]


@given(st.lists(texts, min_size=1, max_size=4), st.text())
def test_no_text_leaves_its_fence(profiles: list[str], preference: str) -> None:
    books = Prompts.load("books")
    preference = "x" + preference
    prompt = books.summarize(profiles)
    lines = fenced(prompt, "items")
    # As many tags as with harmless texts, and one numbered line per item.
    assert [line.partition(". ")[0] for line in lines] == [str(n + 1) for n in range(len(profiles))]
    assert re.findall("[<>]", prompt) == re.findall("[<>]", books.summarize(["a"]))
    prefix, suffix = books.score_prefix(preference), books.score_suffix(profiles[0])
    assert len(fenced(prefix, "preference")) == len(fenced(suffix, "item")) == 1
    assert re.findall(r"[<>\[\]]", prefix + suffix) == re.findall(
        r"[<>\[\]]", books.score_prefix("a") + books.score_suffix("a")
    )
    revision = books.revise(preference, profiles, liked=False)
    assert len(fenced(revision, "items")) == len(profiles) and len(fenced(revision, "preference")) == 1
    for text in (prompt, prefix, suffix, revision):
        text.encode()  # SQLite and HTTP take no lone surrogates


def test_placeholders_in_a_text_stay_text() -> None:
    books = Prompts.load("books")
    assert fenced(books.score_suffix("{preference} {role}"), "item") == ["{preference} {role}"]
    assert fenced(books.revise("{profiles}", ["{preference}"], liked=True), "preference") == ["{profiles}"]


# Items


@pytest.mark.parametrize(
    ("fields", "profile"),
    [
        ({}, NO_TEXT),
        ({"title": "", "author": "  "}, NO_TEXT),
        ({"author": "Gabrielle Zevin", "title": "Elsewhere"}, "Elsewhere | author: Gabrielle Zevin"),
        ({"city": "Tucson", "title": ""}, "city: Tucson"),
        ({"movie_title": "Toy Story", "release_year": "1995"}, "Toy Story | release year: 1995"),
        ({"title": "Signo &amp; Arte &lt;b&gt;", "tags": "a\n\tb"}, "Signo & Arte (b) | tags: a b"),
        ({"name": "Barrio", "<s>": "x"}, "Barrio | (s): x"),
    ],
)
def test_item_profile(fields: dict[str, str], profile: str) -> None:
    assert item_profile(fields) == profile


def test_the_catalogs_books_are_described() -> None:
    data = SyntheticCatalog(num_readers=5, num_books=160)
    data.setup("fit")
    for item in data.interactions.items:
        profile = item_profile(item)
        assert profile == f"{item['title']} | description: {item['description']}"


def test_item_profile_is_truncated_at_the_end() -> None:
    profile = item_profile({"description": "word " * 500, "title": "Elsewhere"}, max_tokens=20)
    assert profile.startswith("Elsewhere | description: word") and profile.endswith("word...")
    assert approximate_tokens(profile) == 20


# Histories


def test_a_history_that_fits_is_kept_whole() -> None:
    history = ["a", "b", "a"]
    assert sample_history(history, 3 * words("3. a\n"), 0, 0, words) == history
    assert len(sample_history(history, 3 * words("3. a\n") - 1, 0, 0, words)) == 2


@given(
    st.lists(st.text("abc ", min_size=1, max_size=20), min_size=1, max_size=30), st.integers(30, 200), st.integers(0, 5)
)
def test_a_sampled_history_fits_and_keeps_its_order(history: list[str], budget: int, user: int) -> None:
    sample = sample_history(history, budget, 0, user, words)
    assert 1 <= len(sample) <= len(history)
    assert words("".join(f"{n}. {profile}\n" for n, profile in enumerate(sample, 1))) <= budget
    rest = iter(history)
    assert all(profile in rest for profile in sample)  # a subsequence
    assert sample == sample_history(history, budget, 0, user, words)


def test_the_sample_depends_on_seed_and_user_and_on_nothing_else() -> None:
    history = [f"item {number}" for number in range(40)]
    samples = {
        (seed, user): tuple(sample_history(history, 120, seed, user, words)) for seed in range(3) for user in range(20)
    }
    assert len(set(samples.values())) == 60
    # Another process, with another hash seed, draws the same.
    code = (
        "from llmhd_pl.llm.prompts import sample_history; "
        "print(sample_history([f'item {n}' for n in range(40)], 120, 2, 7, len))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(list(samples[2, 7]))
    # Every item has the same chance.
    counts = dict.fromkeys(history, 0)
    for user in range(2000):
        for profile in sample_history(history, 120, 0, user, words):
            counts[profile] += 1
    mean = sum(counts.values()) / 40
    assert all(abs(count - mean) < 5 * mean**0.5 for count in counts.values())


def test_one_profile_stays_even_when_none_fits() -> None:
    assert sample_history(["one two three four"] * 2, 14, 0, 0, words) == ["one two..."]


# Answers


@pytest.mark.parametrize(("answer", "score"), [(f"<s>{n}</s>", n) for n in range(1, 11)] + [(" \n<s>7</s>\n", 7)])
def test_scores(answer: str, score: int) -> None:
    assert parse_score(answer) == score


@pytest.mark.parametrize(
    "answer",
    ["", "7", "<s>0</s>", "<s>11</s>", "<s>07</s>", "<s>7.5</s>", "<s>-7</s>", "<s> 7</s>", "<s>7", "7</s>", "<s></s>",
     "<s>N</s>", "<s>7</s>.", "I say <s>7</s>", "<s>7</s><s>8</s>", "<s>7</s>\n<s>7</s>", "<S>7</S>", "<s>\u0667</s>",
     "<s>7 8</s>", "<s>seven</s>", "<s>7/10</s>", "<s>1\n0</s>"],
)  # fmt: skip
def test_what_is_not_a_score(answer: str) -> None:
    assert parse_score(answer) is None


@pytest.mark.parametrize(("parse", "tag"), [(parse_summary, "summarization"), (parse_profile, "profile")])
def test_summaries_and_profiles(parse: object, tag: str) -> None:
    assert callable(parse)
    assert parse(f"<{tag}>Likes\n crime.</{tag}>") == "Likes crime."
    assert parse(f"Sure: <{tag}> Likes crime. </{tag}> Anything else?") == "Likes crime."
    assert parse(f"<{tag}>{'word ' * 130}</{tag}>") == " ".join(["word"] * MAX_WORDS)
    for answer in (
        "",
        "Likes crime.",
        f"<{tag}>Likes",  # generation ended before the text did
        f"Likes</{tag}>",
        f"</{tag}>Likes<{tag}>",
        f"<{tag}> \n</{tag}>",
        f"<{tag}>...</{tag}>",  # the prompt's own example
        f"<{tag}>A</{tag}> <{tag}>B</{tag}>",
        f"<{tag}><{tag}>A</{tag}>",
        "<other>Likes</other>",
    ):
        assert parse(answer) is None, answer


@given(texts)
def test_what_is_parsed_can_be_asked_about(text: str) -> None:
    preference = parse_summary(f"<summarization>{text}</summarization>")
    assert preference is None or fenced(Prompts.load("games").score_prefix(preference), "preference") == [preference]
