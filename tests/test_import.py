"""What ``import llmhd_pl`` costs, gives, and leaves alone. Each script runs in a fresh process."""

import subprocess
import sys

import pytest
from source_tree import REPOSITORY, foreign_statements, modules

import llmhd_pl

SECONDS = """
import time
import torch
start = time.perf_counter()
import llmhd_pl
print(time.perf_counter() - start)
"""
WITHOUT_LIGHTNING = """
import sys
from importlib import import_module
for name in {names}:
    import_module(name)
    for package in ("pytorch_lightning", "lightning", "lightning_fabric"):
        if package in sys.modules:
            sys.exit(f"{{name}} imports {{package}}")
"""
SAME_FILTERS = """
{foreign}
import sys, warnings
from importlib import import_module
filters = list(warnings.filters)
for name in {names}:
    import_module(name)
    if list(warnings.filters) != filters:
        sys.exit(f"{{name}} changes the global filters of warnings")
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_after_torch_it_takes_less_than_half_a_second() -> None:
    assert min(float(run(SECONDS)) for _ in range(3)) < 0.5


def test_every_public_name_can_be_imported() -> None:
    for name in llmhd_pl.__all__:
        value = getattr(llmhd_pl, name)
        assert name == "__version__" or value.__name__ == name
    assert set(llmhd_pl.__all__) <= set(dir(llmhd_pl))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Unknown'"):
        llmhd_pl.Unknown  # noqa: B018


def test_the_method_and_the_language_models_do_without_lightning() -> None:
    packages = "llmhd_pl.denoising", "llmhd_pl.llm"
    names = ["llmhd_pl.sample_weights", *(name for name in modules() if name.startswith(packages))]
    assert len(names) > 15
    run(WITHOUT_LIGHTNING.format(names=names))


def test_no_import_changes_the_filters_of_warnings() -> None:
    """What other packages do when they are imported is done before."""
    run(SAME_FILTERS.format(foreign=foreign_statements(), names=list(modules())))
