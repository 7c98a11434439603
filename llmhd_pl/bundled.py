"""The configuration files that come with the package."""

from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
GRIDS = CONFIGS / "compare"
"""The folder of the grids of ``llmhd compare``; all other files are configurations of ``llmhd fit``."""


def names(folder: Path = CONFIGS) -> list[str]:
    """Return the names of bundled configuration files, such as ``quickstart`` or ``methods/t-ce``.

    Args:
        folder: ``CONFIGS`` for those of ``llmhd fit``, ``GRIDS`` for the grids of ``llmhd compare``.
    """
    found = [path for path in folder.rglob("*.yaml") if folder == GRIDS or GRIDS not in path.parents]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in found)


def find(name: str, folder: Path = CONFIGS) -> Path:
    """Return the path of a configuration file.

    Args:
        name: The path of a file, or the name of a bundled one. A file comes first.
        folder: The folder of the bundled ones; see ``names``.

    Raises:
        FileNotFoundError: If it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (bundled := folder / f"{name}.yaml").is_file():
        return bundled
    raise FileNotFoundError(
        f"There is no file {name} in {Path.cwd()}, and no bundled configuration of this name. "
        f"Bundled are {', '.join(names(folder))}."
    )
