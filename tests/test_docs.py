"""The documentation is complete and consistent. ``make docs`` builds it, and turns every warning into an error."""

import re
import unicodedata
from importlib import import_module
from pathlib import Path

import pytest

import llmhd_pl
from llmhd_pl import bundled

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")])
PRODUCT = ("llmhd_pl", "callbacks", "datamodules", "configs", "benchmarks", "studies", "tools", "examples")
SOURCES = sorted(
    path
    for folder in PRODUCT
    for path in (REPOSITORY / folder).rglob("*")
    if path.suffix in (".py", ".yaml", ".toml", ".json") and path.is_file()
)
DIRECTIVES = re.findall(
    r"^::: ([\w.]+)$", "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md")), re.MULTILINE
)


def named(path: Path) -> str:
    """The path in the repository, as the name of a test."""
    return path.relative_to(REPOSITORY).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MkDocs make them from ASCII titles."""
    without_code = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", unicodedata.normalize("NFKD", title)).strip().lower() for title in titles)
    return {re.sub(r"[\s-]+", "-", title) for title in plain}


@pytest.mark.parametrize("name", llmhd_pl.__all__)
def test_every_public_name_is_on_a_page_of_the_reference(name: str) -> None:
    assert f"llmhd_pl.{name}" in DIRECTIVES


@pytest.mark.parametrize("path", sorted(DIRECTIVES))
def test_the_reference_names_what_exists(path: str) -> None:
    module, _, name = path.rpartition(".")
    try:
        found = hasattr(import_module(module), name)
    except ModuleNotFoundError:
        found = False
    if not found:
        import_module(path)


def test_nothing_refers_to_files_that_readers_do_not_have() -> None:
    inward = re.compile(r"PAPER\.md|DESIGN\.md|STACK\.md|DATA\.md|\.\./shared")
    assert [named(path) for path in [*PAGES, *SOURCES] if inward.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_between_pages_resolve(page: Path) -> None:
    without_code = re.sub(
        r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link} leads nowhere"
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} leaves the site"
        if anchor:
            assert anchor in anchors(target), f"{link} names no heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_configurations_in_commands_exist(page: Path) -> None:
    code = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))  # commands over several lines
    for command, rest in re.findall(r"llmhd (fit|validate|test|predict|compare)( [^\n`]*)", code):
        for name in re.findall(r"--config[ =]([\w./-]+)", rest):
            folder = bundled.GRIDS if command == "compare" else bundled.CONFIGS
            assert name in bundled.names(folder) or (REPOSITORY / name).is_file(), f"{name} is no bundled configuration"


@pytest.mark.parametrize("page", ["index.md", "denoising.md"])
def test_the_first_snippet_runs(page: str) -> None:
    code = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(code, names)
    callbacks = [type(callback).__name__ for callback in names["trainer"].callbacks]  # type: ignore[attr-defined]
    assert [name for name in callbacks if name in llmhd_pl.__all__] == [
        "SampleRecorder", "VariancePruning", "LLMSampleScorer",
    ]  # fmt: skip


@pytest.mark.parametrize("picture", ["yelp", "yelp-llmhd", "misclicks"])
def test_the_pictures_are_those_of_the_grids(picture: str) -> None:
    copied = (DOCS / "results" / f"{picture}.png").read_bytes()
    assert copied == (REPOSITORY / "results" / f"{picture}.png").read_bytes()
