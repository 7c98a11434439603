"""What people see of an audit, in a real browser."""

import base64
import csv
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsers import Visit, chromium, visit
from titles import TITLES, shared_titles

from llmhd_pl.audit import html, page
from llmhd_pl.audit.findings import Audit, Cut, Share
from llmhd_pl.audit.html import script_json
from llmhd_pl.audit.page import write_page
from llmhd_pl.datamodules.interactions import Interactions

NAN = float("nan")
ALL = Share("all", 6, 0.12, 0.1, 0.14)
HOSTILE = [
    *TITLES,
    *shared_titles(),
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>--><img src=x onerror=alert(2)>",
    "<svg onload=alert(3)>",
    "javascript:alert(4)",
    "{{constructor.constructor('alert(5)')()}} ${alert(6)}",
    "__proto__",
    '" onmouseover="alert(7)',
    "&lt;b&gt; &amp; &quot;",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def made(
    pairs: list[tuple[int, int]],
    p_values: list[float],
    titles: list[str],
    users: list[str] | None = None,
    **more: Any,
) -> tuple[Audit, Interactions]:
    """An audit in which the chance of an interaction is half its p-value, and its score 10 less 9 times that."""
    train, p = torch.tensor(pairs), np.array(p_values)
    items = [{"title": title, "description": f"All about number {number}."} for number, title in enumerate(titles)]
    none = torch.empty(0, 2, dtype=torch.int64)
    names = {"user_names": users, "item_names": [f"b{number}" for number in range(len(titles))]}
    people = len(users) if users else int(train[:, 0].max()) + 1
    interactions = Interactions("Shop", people, len(titles), train, none, none, items, **names)
    arrays = train[:, 0].numpy(), train[:, 1].numpy(), (10 - 9 * p).astype(np.float32), p, p / 2
    given: dict[str, Any] = {
        "share": ALL,
        "auc": 0.8,
        "can_tell": True,
        "judgeable": len(p),
        "weights": np.ones(len(p)),
    }
    return Audit("Shop", "LexicalScorer", *arrays, **given | more), interactions


BOOKS = ["Knots and Masts", "Sourdough", "The Rook", "Ghosts, Vol. 2", "Köln"]
PAIRS = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 3), (2, 4)]
P_VALUES = [0.05, 0.97, 0.5, 0.2, NAN, 0.75]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "audit.html"
    groups = [Share("items with 1 to 5 interactions", 4, 0.2, 0.1, 0.3), Share("others", 0, NAN, NAN, NAN)]
    cuts = [Cut(0.9, 1, 0.02), Cut(0.5, 2, 0.1)]
    advice = ["Drop little.", "Look at <b>these</b> first."]
    write_page(path, *made(PAIRS, P_VALUES, BOOKS, ["anna", "bob", "=cmd()"], groups=groups, cuts=cuts, advice=advice))
    return path


# What it says


def test_from_top_to_bottom(browser: Any, shop: Path) -> None:
    with visit(browser, shop) as seen:
        assert seen.page.title() == "Noise audit of Shop, judged by LexicalScorer"
        assert seen.texts("h1") == [
            "About 12\u00a0% of the 5 judged interactions look like chance (95\u00a0% interval 10 to 14\u00a0%)"
        ]
        assert seen.texts(".advice li") == ["Drop little.", "Look at <b>these</b> first."]
        assert not seen.page.locator(".warning").count()
        assert seen.texts("h2") == ["How well the items fit", "Where chance is at work", "What to drop", "Interactions"]
        rows = seen.texts(".small tbody tr")
        assert re.sub(r"\s+", " ", rows[0]) == "items with 1 to 5 interactions 4 20 % 10 to 30 %"
        assert re.sub(r"\s+", " ", rows[2]) == "0.9 1 2 % about one in 50 Show"
        tops = seen.page.locator("h1, .advice, svg, .small, .rows").evaluate_all(
            "all => all.map((one) => one.getBoundingClientRect().top)"
        )
        assert tops == sorted(tops) and len(tops) == 6


def test_the_picture_has_the_right_bars_and_the_line_of_chance(browser: Any, shop: Path) -> None:
    with visit(browser, shop) as seen:
        titles = seen.page.locator("svg .bar title").evaluate_all("all => all.map((one) => one.textContent)")
        assert len(titles) == 20 and {title for title in titles if not title.endswith(": 0")} == {
            *("0.05 to 0.10: 1", "0.20 to 0.25: 1", "0.50 to 0.55: 1", "0.75 to 0.80: 1", "0.95 to 1.00: 1")
        }
        bars, line = (
            seen.page.locator(f"svg {name}").first.evaluate(f"one => Number(one.getAttribute('{key}'))")
            for name, key in ((".bar >> nth=1", "height"), (".chance", "y1"))
        )
        assert (216 - line) / bars == pytest.approx(0.12 * 5 / 20, abs=0.0002)  # of a bar that holds one interaction


def test_the_picture_counts_what_the_judged_ones_stand_for() -> None:
    audit, _ = made([(0, 0), (1, 1), (2, 2), (3, 3)], [0.02, 0.02, 0.97, NAN], ["a", "b", "c", "d"])
    audit.weights = np.array([1.0, 1.0, 4.0, 9.0])
    counts = page._histogram(audit)["counts"]
    assert (counts[0], counts[-1], sum(counts)) == (1, 2, 3)


def test_the_most_suspicious_ones_come_first_with_a_reason(browser: Any, shop: Path) -> None:
    with visit(browser, shop) as seen:
        assert seen.column("item") == [
            "Sourdough",
            "Köln",
            "Sourdough",
            "The Rook",
            "Knots and Masts",
            "Ghosts, Vol. 2",
        ]
        assert seen.column("user") == ["anna", "=cmd()", "bob", "bob", "anna", "=cmd()"]
        assert seen.column("p_value") == ["0.970", "0.750", "0.500", "0.200", "0.050", ""]
        assert seen.column("score") == ["1.3", "3.3", "5.5", "8.2", "9.6", ""]
        assert seen.column("chance")[0] == "49\u00a0%"
        assert seen.column("reason")[0] == "97\u00a0% of other users would fit this item at least as well"
        assert seen.column("reason")[-1].startswith("No score")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (400, "light"), (400, "dark")])
def test_it_is_readable_in_every_light_and_on_a_phone(browser: Any, shop: Path, width: int, scheme: str) -> None:
    """Nothing sticks out, and a text differs from what it stands on by WCAG's 4.5."""
    luminance = """(color) => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((c) =>
        c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; }"""
    script = f"""(all) => {{ const luminance = {luminance}; return all.map((one) => {{
        let under = one;
        while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)") under = under.parentElement;
        const style = getComputedStyle(one);
        const text = luminance(one.closest("svg") ? style.fill : style.color);
        const back = luminance(getComputedStyle(under).backgroundColor);
        return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05); }}); }}"""
    with visit(browser, shop, width, scheme) as seen:
        seen.page.locator(".open button").first.click()
        seen.page.locator("tbody .tick input").first.check()
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        contrasts = seen.page.locator("h1, p, li, th, td, dt, dd, label, button:enabled, svg text").evaluate_all(script)
        assert len(contrasts) > 50 and min(contrasts) >= 4.5


def test_a_judge_that_cannot_tell(browser: Any, tmp_path: Path) -> None:
    share = Share("all", 6, NAN, NAN, NAN)
    write_page(tmp_path / "a.html", *made(PAIRS, P_VALUES, BOOKS, can_tell=False, auc=0.51, share=share))
    with visit(browser, tmp_path / "a.html") as seen:
        (warning,) = seen.texts(".warning")
        assert warning.startswith("This judge cannot tell. In 51\u00a0% of all cases")
        assert seen.texts("h1") == ["How many of the 5 judged interactions came about by chance cannot be said"]
        assert not seen.page.locator("svg .chance").count() and not seen.page.locator(".small").count()
    cuts = [Cut(0.9, 1, 0.02)]
    write_page(tmp_path / "b.html", *made(PAIRS, P_VALUES, BOOKS, can_tell=False, auc=0.51, cuts=cuts))
    with visit(browser, tmp_path / "b.html") as seen:
        assert "What to drop (not to be relied on: this judge cannot tell)" in seen.texts("h2")


def test_nothing_judged(browser: Any, tmp_path: Path) -> None:
    share = Share("all", 0, NAN, NAN, NAN)
    write_page(tmp_path / "a.html", *made(PAIRS, [NAN] * 6, BOOKS, share=share, can_tell=False, auc=NAN))
    with visit(browser, tmp_path / "a.html") as seen:
        assert seen.texts("h1")[0].startswith("None of the 6 interactions has a score")
        assert not seen.page.locator("svg").count() and len(seen.column("item")) == 6


def test_items_without_texts_and_without_names(browser: Any, tmp_path: Path) -> None:
    audit, interactions = made(PAIRS, P_VALUES, BOOKS)
    interactions.items, interactions.item_names = [], None
    write_page(tmp_path / "a.html", audit, interactions)
    with visit(browser, tmp_path / "a.html") as seen:
        assert seen.column("item")[0] == "(no title) 1" and seen.column("user")[0] == "0"


# What one can do


def search(seen: Visit, text: str) -> None:
    seen.page.get_by_label("Search").first.fill(text)
    seen.page.wait_for_timeout(200)  # more than it waits for another letter


@pytest.mark.parametrize(
    ("text", "found"),
    {
        "rook": ["The Rook"],
        "SOUR": ["Sourdough", "Sourdough"],
        "anna": ["Sourdough", "Knots and Masts"],
        "anna knots": ["Knots and Masts"],
        "b3": ["Ghosts, Vol. 2"],
        "number 4": ["Köln"],
        "ko\u0308ln": ["Köln"],  # as other systems write it
        "nothing of it": [],
        ".*": [],
    }.items(),
)
def test_search(browser: Any, shop: Path, text: str, found: list[str]) -> None:
    with visit(browser, shop) as seen:
        search(seen, text)
        assert seen.column("item") == found and seen.count() == f"{len(found)} of 6 interactions"
        if not found:
            assert "Nothing matches" in seen.texts(".empty")[0]


@pytest.mark.parametrize(
    ("label", "first", "order"),
    [
        ("p-value", "descending", ["0.970", "0.750", "0.500", "0.200", "0.050", ""]),
        ("Score", "descending", ["0.050", "0.200", "0.500", "0.750", "0.970", ""]),
        ("Item", "ascending", ["", "0.050", "0.750", "0.970", "0.500", "0.200"]),
        ("User", "ascending", ["0.750", "", "0.970", "0.050", "0.500", "0.200"]),
    ],
)
def test_sorting_keeps_what_has_no_number_last(
    browser: Any, shop: Path, label: str, first: str, order: list[str]
) -> None:
    with visit(browser, shop) as seen:
        button = seen.page.get_by_role("button", name=label, exact=True)
        button.click()
        assert seen.page.locator("[aria-sort]").get_attribute("aria-sort") == first
        assert seen.column("p_value") == order
        seen.page.keyboard.press("Enter")  # it still has the focus
        assert seen.page.locator("[aria-sort]").get_attribute("aria-sort") != first
        missing = [text for text in order if not text] if label in ("p-value", "Score") else []
        if label != "Item" and label != "User":
            assert seen.column("p_value") == [text for text in reversed(order) if text] + missing


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"p-value above": "0.5"}, ["0.970", "0.750"]),
        ({"p-value above": "0.1", "p-value at most": "0.5"}, ["0.500", "0.200"]),
        ({"Chance at least, in %": "25"}, ["0.970", "0.750", "0.500"]),
        ({"Users of the item, at most": "1"}, ["0.750", "0.200", "0.050", ""]),
        ({"Items of the user, at most": "1"}, []),
        ({"Score": "0"}, [""]),
        ({"Score": "1"}, ["0.970", "0.750", "0.500", "0.200", "0.050"]),
    ],
)
def test_filters(browser: Any, shop: Path, filters: dict[str, str], found: list[str]) -> None:
    with visit(browser, shop) as seen:
        for label, value in filters.items():
            field = seen.page.locator("label", has_text=label).first.locator("input, select")
            field.select_option(value) if label == "Score" else field.fill(value)
        assert seen.column("p_value") == found
        seen.page.get_by_role("button", name="Reset filters").click()
        assert seen.count() == "6 of 6 interactions"


def test_a_bound_shows_what_it_would_drop(browser: Any, shop: Path) -> None:
    with visit(browser, shop) as seen:
        search(seen, "nothing of it")
        seen.page.get_by_role("button", name="Show", exact=True).nth(1).click()
        assert seen.column("p_value") == ["0.970", "0.750"]


def test_one_user_alone_and_the_details_of_a_row(browser: Any, shop: Path) -> None:
    with visit(browser, shop) as seen:
        seen.page.locator("td.user button").first.click()
        assert seen.column("item") == ["Sourdough", "Knots and Masts"]
        button = seen.page.locator(".open button").first
        button.press("Enter")
        assert button.get_attribute("aria-expanded") == "true"
        details = seen.texts(".details")[0]
        for wanted in ("b1", "All about number 1.", "Other interactions of anna (1)", "Knots and Masts", "0.050"):
            assert wanted in details
        seen.page.get_by_role("button", name="Show all rows of this item").click()
        assert seen.column("item") == ["Sourdough"]  # of this user
        seen.page.locator(".chip").first.click()
        assert seen.column("user") == ["anna", "bob"]


def exported(seen: Visit, folder: Path) -> list[dict[str, str]]:
    with seen.page.expect_download() as download:
        seen.page.get_by_role("button", name="Export").first.click()
    download.value.save_as(folder / "selected.csv")
    with (folder / "selected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_selection_is_exported(browser: Any, shop: Path, tmp_path: Path) -> None:
    with visit(browser, shop) as seen:
        assert seen.page.get_by_role("button", name="Export").is_disabled()
        search(seen, "sourdough")
        seen.page.get_by_role("button", name="Select all 2 shown").click()
        search(seen, "ghosts")  # what is not shown any more stays selected
        seen.page.get_by_label("Select this row").check()
        rows = exported(seen, tmp_path)
        assert [row["title"] for row in rows] == ["Sourdough", "Sourdough", "Ghosts, Vol. 2"]
        assert rows[0] == {
            **{"user_id": "anna", "item_id": "b1", "title": "Sourdough", "score": "1.27", "p_value": "0.97"},
            **{"chance": "0.485", "popularity": "2", "activity": "2"},
        }
        assert rows[2]["user_id"] == "'=cmd()" and rows[2]["score"] == rows[2]["p_value"] == ""
        search(seen, "")
        seen.page.get_by_label("Only selected").check()
        assert seen.count() == "3 of 6 interactions"
        seen.page.locator("tbody .tick input").first.click()
        assert seen.count() == "2 of 6 interactions"
        seen.page.get_by_role("button", name="Clear selection").click()
        assert seen.page.get_by_role("button", name="Export 0 selected").is_disabled()


def test_every_input_has_a_label_and_every_button_a_name(browser: Any, shop: Path) -> None:
    with visit(browser, shop) as seen:
        for field in seen.page.locator("input, select").all():
            assert field.evaluate("one => Boolean(one.getAttribute('aria-label') || one.closest('label'))")
        for button in seen.page.locator("button").all():
            assert button.evaluate("one => one.textContent.trim() || one.getAttribute('aria-label')")


# Hostile texts

FORMULAS = ["=1+1", "+SUM(A1)", "-2+3", "@x", "\t=1", "\r=1", "-5", "+4.5", 'a"b,c\r\nd', " x"]


def test_hostile_texts_are_shown_and_never_run(browser: Any, tmp_path: Path) -> None:
    titles = [*HOSTILE, *FORMULAS]
    pairs = [(number, number) for number in range(len(titles))]
    p_values = list(np.linspace(1, 0, len(titles)))
    users = [f"{title}#{number}" for number, title in enumerate(titles)]
    audit, interactions = made(pairs, p_values, titles, users, advice=HOSTILE, groups=[Share(HOSTILE[-6], 1, 0, 0, 0)])
    audit.data = "</title></script><script>alert(8)</script>"
    interactions.items[0] = {"<script>alert(9)</script>": "x", **interactions.items[0]}
    write_page(tmp_path / "a.html", audit, interactions)
    with visit(browser, tmp_path / "a.html") as seen:
        assert seen.page.title().startswith("Noise audit of </title></script><script>alert(8)</script>")
        assert (
            seen.page.locator("script").count() == 2
            and not seen.page.locator("img, main svg[onload], b:not(.interval b)").count()
        )
        shown = []
        while True:
            shown += seen.column("item")
            for button in seen.page.locator(".open button").all():
                button.click()
            following = seen.page.get_by_role("button", name="Next page")
            if not following.is_visible() or following.is_disabled():
                break
            following.click()
        assert len(shown) == len(titles)
        for title, text in zip(titles, shown, strict=True):
            plain = " ".join(title.split())
            if plain.isprintable() and plain and len(plain) < 500:
                assert text == plain
            assert "\u202e" not in text and "\x1b" not in text and "\ud800" not in text
        assert "\\u202eright to left\\u202c and \\u2066isolated\\u2069" in shown
        assert "Half \\ud800 a character" in shown and "zero\\u200bwidth \\ufeff and \\x00 nothing" in shown
        assert "👩\u200d🚀 Köln 東京" in shown and any(text.startswith("(no title) b") for text in shown)
        seen.page.get_by_role("button", name=re.compile("Select all")).click()
        rows = exported(seen, tmp_path)
    assert len(rows) == len(titles)
    for title, row in zip(titles, rows, strict=True):
        guard = "'" if title[:1] in ("=", "+", "-", "@", "\t", "\r") and title not in ("-5", "+4.5") else ""
        assert row["title"] == guard + re.sub("[\ud800-\udfff]", "\ufffd", title)


def test_a_script_that_got_in_after_all_would_not_run(browser: Any, shop: Path, tmp_path: Path) -> None:
    text = shop.read_text(encoding="utf-8")
    bad = "<script>document.title = 'run'</script><img src='http://example.com/x.png' onerror=\"document.title='run'\">"
    (tmp_path / "a.html").write_text(text.replace("<main", bad + "<main"), encoding="utf-8")
    context = browser.new_context()
    opened = context.new_page()
    stopped: dict[str, str] = {}
    opened.on("requestfailed", lambda request: stopped.update({request.url: request.failure}))
    finished: list[str] = []
    opened.on("requestfinished", lambda request: finished.append(request.url))
    opened.goto((tmp_path / "a.html").as_uri())
    assert opened.title().startswith("Noise audit") and opened.locator("h1").count() == 1
    assert opened.evaluate("fetch('http://example.com/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert finished == [(tmp_path / "a.html").as_uri()]
    assert stopped == {"http://example.com/x.png": "csp"}  # what a script asks for is stopped before it is a request
    context.close()


# Size


def test_two_hundred_thousand_interactions_stay_usable(browser: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    count, people, books = 200_500, 20_000, 10_000
    keys = np.sort(generator.choice(people * books, count, replace=False))
    p_values = np.where(generator.random(count) < 0.02, NAN, generator.random(count))
    titles = [f"Book {number} of the {('sea', 'sky', 'earth')[number % 3]} " + "long " * 8 for number in range(books)]
    pairs = np.stack([keys // books, keys % books], 1)
    audit, interactions = made(pairs.tolist(), p_values.tolist(), titles, [f"user{number}" for number in range(people)])
    start = time.perf_counter()
    write_page(tmp_path / "a.html", audit, interactions)
    written = time.perf_counter() - start
    start = time.perf_counter()
    with visit(browser, tmp_path / "a.html") as seen:
        assert len(seen.column("item")) == 50
        loaded = time.perf_counter() - start
        assert seen.count() == "200,000 of 200,000 interactions"
        assert "Only the 200,000 most suspicious of all 200,500 interactions" in seen.texts(".note")[1]
        times = {}
        for what, script in {
            "first search": "one.term = 'sky 77'; one.refresh()",
            "search": "one.term = 'sea long'; one.refresh()",
            "sort": "one.sortBy(one.columns.get('item'))",
            "select": "one.select(one.shown, 1)",
            "export": "one.csv()",
        }.items():
            timed = f"const start = performance.now(); {script}; return performance.now() - start;"
            times[what] = seen.page.evaluate(f"() => {{ const one = explorers[0]; {timed} }}") / 1000
        search(seen, "user77")
        assert seen.page.locator("tr").count() < 60
    size = (tmp_path / "a.html").stat().st_size / 1e6
    print(f"{size:.1f} MB, written in {written:.1f} s, loaded in {loaded:.1f} s, {times}")
    # Several times what it takes on two cores that others use, too.
    assert written < 20 and loaded < 20 and max(times["first search"], times["search"]) < 2 and times["sort"] < 5


# Without a browser


def parts(path: Path) -> tuple[str, dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return text, json.loads(found[1])


def test_the_policy_allows_only_the_script_and_the_style_of_the_page(shop: Path) -> None:
    text, _ = parts(shop)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and policy[1].startswith("default-src 'none';") and "unsafe" not in policy[1]
    for kind, tag in (("script", "script"), ("style", "style")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org/2000/svg)", text
    )


@pytest.mark.parametrize("title", HOSTILE)
def test_json_in_a_script_comes_back_and_cannot_leave_it(title: str) -> None:
    text = script_json({title: [title, 1.5, None]})
    assert not set("<>&\u2028\u2029") & set(text) and text.encode()
    assert json.loads(text) == {title: [title, 1.5, None]}


def test_no_number_is_no_json() -> None:
    with pytest.raises(ValueError):
        script_json([NAN])


def test_of_many_interactions_the_most_suspicious_are_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_ROWS", 3)
    write_page(tmp_path / "a.html", *made(PAIRS, P_VALUES, BOOKS))
    _, data = parts(tmp_path / "a.html")
    (explorer,) = data["explorers"]
    assert explorer["note"].startswith("Only the 3 most suspicious of all 6 interactions are on this page")
    assert [column["values"] for column in explorer["columns"] if column["name"] == "p_value"] == [[0.97, 0.75, 0.5]]
    assert explorer["tables"]["items"]["texts"] == ["Sourdough", "Köln"]
    assert sum(data["histogram"]["counts"]) == 5  # all of them
    assert [c["values"] for c in explorer["columns"] if c["name"] == "popularity"] == [[2, 1, 2]]


def test_long_texts_are_cut_so_that_a_browser_can_hold_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "_MOST_TEXT", 1000)
    assert html.cut_fields([{"a": "x" * 600, "b": "short"}]) == [
        [("a", "x" * 500 + " … (600 characters)"), ("b", "short")]
    ]


@pytest.mark.parametrize(
    ("share", "words"),
    {
        0.0: "fewer than one in a hundred", 0.02: "about one in 50", 0.1: "about one in ten",
        0.14: "about one in seven", 0.2: "about two in ten", 0.5: "about half", 0.9: "about nine in ten",
        0.97: "nearly all", NAN: "how many of them are right is not known",
    }.items(),
)  # fmt: skip
def test_shares_in_words(share: float, words: str) -> None:
    assert page.one_in(share) == words


@pytest.mark.parametrize(
    ("share", "text"),
    {0.0: "0 %", 0.004: "0.4 %", 0.12: "12 %", 0.994: "99.4 %", 1.0: "100 %", NAN: "\N{EN DASH}"}.items(),
)
def test_percentages(share: float, text: str) -> None:
    assert html.percent(share).replace("\u00a0", " ") == text


def test_a_page_that_cannot_be_written_leaves_the_old_one(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "a.html").mkdir()
    with pytest.raises(OSError, match=r"a\.html could not be written"):
        write_page(tmp_path / "a.html", *made(PAIRS, P_VALUES, BOOKS))
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
