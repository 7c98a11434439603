"""The configuration files that come with the package."""

from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


def names() -> list[str]:
    """Return the names of the bundled configuration files, such as ``quickstart`` or ``methods/t-ce``."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def find(name: str) -> Path:
    """Return the path of a configuration file.

    Args:
        name: The path of a file, or the name of a bundled one. A file comes first.

    Raises:
        FileNotFoundError: If it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (bundled := CONFIGS / f"{name}.yaml").is_file():
        return bundled
    raise FileNotFoundError(
        f"There is no file {name} in {Path.cwd()}, and no bundled configuration of this name. "
        f"Bundled are {', '.join(names())}."
    )
