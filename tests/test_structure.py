"""The layout of the code: sizes of files, who may import whom, and the links of the package."""

import ast
import subprocess
from pathlib import Path

import pytest
from source_tree import REPOSITORY, imports, modules

LINES = 300
PACKAGES = (
    "audit",
    "backbones",
    "callbacks",
    "datamodules",
    "denoising",
    "llm",
    "methods",
    "cli",
    "compare",
    "judge",
    "report",
)
# The packages and commands that a package may import, besides itself; it may import any of the small modules.
MAY_IMPORT: dict[str, set[str]] = {
    "backbones": set(),
    "callbacks": {"audit", "denoising", "llm"},
    "datamodules": set(),
    "denoising": set(),
    "llm": set(),
    "methods": {"callbacks", "denoising", "llm"},
}
# And the small modules that backbones may import.
FOR_BACKBONES = {
    *("sample_weights", "graph", "sparse", "losses", "metrics", "ranking", "training_data", "processes"),
    *("checkpoint_io", "finite", "fingerprint", "precision"),
}


def files(package: str) -> dict[str, Path]:
    prefix = f"llmhd_pl.{package}"
    return {name: path for name, path in modules().items() if name == prefix or name.startswith(f"{prefix}.")}


def ours(path: Path) -> set[str]:
    """The parts of this package that a file imports, such as "llm" for ``llmhd_pl.llm.scorer``."""
    parts = {name.split(".")[1] for name in imports(path) if name.startswith("llmhd_pl.")}
    unknown = parts - {"__version__"} - {name.split(".")[1] for name in modules() if "." in name}
    assert not unknown, f"{path} imports {unknown} from llmhd_pl, not from the module that defines it"
    return parts


def test_no_file_is_longer_than_300_lines() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert len(lines) > 50
    assert {name: count for name, count in lines.items() if count > LINES} == {}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_who_may_import_whom(package: str) -> None:
    found = files(package)
    assert found
    forbidden = {other for other in PACKAGES if other != package} - MAY_IMPORT[package]
    assert {name: bad for name, path in found.items() if (bad := ours(path) & forbidden)} == {}


def test_backbones_import_their_parts_only() -> None:
    allowed = {"backbones"} | FOR_BACKBONES
    assert {name: bad for name, path in files("backbones").items() if (bad := ours(path) - allowed)} == {}


def test_small_modules_import_no_package() -> None:
    """They are what the packages stand on: an import back would be a circle."""
    for module in (*FOR_BACKBONES, "memory", "files"):
        (path,) = files(module).values()
        assert not ours(path) & set(PACKAGES), module


@pytest.mark.parametrize("package", ["denoising", "llm", "sample_weights"])
def test_plain_torch_is_free_of_lightning(package: str) -> None:
    for name, path in files(package).items():
        assert not {other.split(".")[0] for other in imports(path)} & {"pytorch_lightning", "lightning"}, name


def test_no_private_name_is_imported_from_another_module() -> None:
    private = {
        (name, other)
        for name, path in modules().items()
        for other in imports(path)
        if other.startswith("llmhd_pl.") and "._" in other and not other.endswith("__")
    }
    assert private == set()


def test_no_hook_is_an_alias_of_another() -> None:
    """``on_a = on_b = f`` in a class hides who is called when: each hook is a method of its own."""
    aliases = {
        (name, target.id)
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id.startswith("on_")
    }
    assert aliases == set()


def test_folders_at_the_top_are_linked_into_the_package() -> None:
    links = ["llmhd_pl/callbacks", "llmhd_pl/configs", "llmhd_pl/datamodules"]
    listed = subprocess.run(
        ["git", "ls-files", "-s", *links], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split("\t")[1] for line in listed] == links
    assert [line.split()[0] for line in listed] == ["120000"] * 3
    for link in links:
        assert (REPOSITORY / link).resolve() == REPOSITORY / Path(link).name


def test_no_test_imports_from_a_conftest() -> None:
    """There are several of them, and whichever was loaded first would be found."""
    tests = sorted((REPOSITORY / "tests").rglob("*.py"))
    assert [path for path in tests if "conftest" in {name.split(".")[0] for name in imports(path)}] == []
