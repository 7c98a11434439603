from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder to a run of its own: a pretend device starts threads, after which no other test could fork."""
    return None if any("pretend" in argument for argument in config.args) else True
