"""The package as people install it: a wheel in a fresh environment, used in an empty folder."""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import llmhd_pl

REPOSITORY = Path(__file__).parent.parent
FOLDERS = ("callbacks", "datamodules", "configs")


def run(*command: str | Path, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    outer = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=outer | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with its links: building in place leaves a build folder behind."""
    folder = tmp_path_factory.mktemp("copy") / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "wandb", "build", "dist", "*.egg-info", "__pycache__", "site")
    shutil.copytree(REPOSITORY, folder, symlinks=True, ignore=ignored)
    assert all((folder / "llmhd_pl" / name).is_symlink() for name in FOLDERS)
    return folder


def build(where: Path | str, folder: Path) -> Path:
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, where, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("wheel"))


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_all_packages_and_no_other_top_level_name(wheel: Path) -> None:
    names = files_of(wheel)
    assert {name.split("/")[0] for name in names} == {"llmhd_pl"}
    for package in ("", "backbones/", "callbacks/", "compare/", "datamodules/", "denoising/", "judge/", "llm/"):
        assert f"llmhd_pl/{package}__init__.py" in names
    assert {"llmhd_pl/py.typed", "llmhd_pl/llm/templates/books.toml", "llmhd_pl/configs/quickstart.yaml"} <= names
    assert {f"llmhd_pl/audit/page.{kind}" for kind in ("py", "html", "css", "js")} <= names
    tracked = {
        f"llmhd_pl/{path.relative_to(REPOSITORY)}"
        for folder, kind in zip(FOLDERS, ("*.py", "*.py", "*.yaml"), strict=True)
        for path in (REPOSITORY / folder).rglob(kind)
    }
    assert tracked <= names
    assert {path.name for path in (REPOSITORY / "llmhd_pl" / "llm" / "judge").iterdir() if path.is_file()} <= {
        Path(name).name for name in names
    }


def test_the_source_distribution_gives_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    script = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    archive = tmp_path / run(sys.executable, "-c", script, cwd=source).stdout.splitlines()[-1]
    (tmp_path / "wheel").mkdir()
    assert files_of(build(archive, tmp_path / "wheel")) == files_of(wheel)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment with the wheel; what it depends on comes from the outer environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path file at the end of another path's list does not run that path's own path files: no editable install.
    (packages / "outer.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    found = run(python, "-c", "import llmhd_pl; print(llmhd_pl.__file__)", cwd=folder).stdout.strip()
    assert Path(found).is_relative_to(packages)
    return folder / "bin"


def test_the_installed_command_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    llmhd = installed / "llmhd"
    assert run(llmhd, "--version", cwd=tmp_path).stdout == f"llmhd-pl {llmhd_pl.__version__}\n"
    sizes = ["--data.num_readers=60", "--data.num_books=50", "--data.num_topics=5", "--data.books_per_reader=12"]
    short = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    fit = [llmhd, "fit", "--config", "quickstart", *sizes, *short]
    run(*fit, "--denoising=null", "--trainer.logger.init_args.version=without", cwd=tmp_path)
    judge = ["--denoising=LLMHD", "--denoising.scorer=LexicalScorer", "--denoising.audit=true"]
    run(*fit, *judge, "--trainer.logger.init_args.version=with", cwd=tmp_path)
    assert (tmp_path / "runs" / "with" / "judgements.jsonl").is_file()
    report = run(llmhd, "report", "runs/without", "runs/with", cwd=tmp_path)
    assert "ndcg@10" in report.stdout and (tmp_path / "runs" / "with" / "report.png").is_file()
    grid = [
        "output: results",
        "base: [quickstart]",
        "seeds: [0]",
        "noise_ratios: [0.0]",
        "backbones: {MF: {model: MF}}",
    ]
    methods = "methods: {plain: {denoising: null}, T-CE: {denoising: {class_path: TCE}}}"
    (tmp_path / "grid.yaml").write_text(
        "\n".join([*grid, methods, f"arguments: [{', '.join([*sizes, *short])}]"]), encoding="utf-8"
    )
    table = run(llmhd, "compare", "--config", "grid.yaml", cwd=tmp_path).stdout
    assert "plain" in table and "T-CE" in table
    assert len((tmp_path / "results" / "grid.jsonl").read_text().splitlines()) == 2
