"""Code of the user's own that a run loads: its records would not show that it has changed."""

import hashlib
import re
import sys
import sysconfig
from collections.abc import Mapping
from importlib.machinery import PathFinder
from itertools import chain
from pathlib import Path
from typing import Any

_CLASS = re.compile(r"[A-Za-z_]\w*(\.\w+)*\.[A-Z]\w*")


def code_digest(*class_paths: str) -> str | None:
    """Return a hash of the source files of the modules that some classes come from; None if all are installed ones.

    Of a package, all of its Python files count. Nothing is imported.

    Args:
        class_paths: The import paths of classes, such as "my_module.MyLoss", or names without a module.
    """
    found = hashlib.sha256()
    modules = sorted({path.partition(".")[0] for path in class_paths if "." in path})
    files = [(module, file) for module in modules for file in _sources(module)]
    for module, file in files:
        found.update(f"{module} {file.name} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16] if files else None


def class_paths(part: Any) -> list[str]:
    """Return what a part of a configuration calls classes: what a ``class_path`` says, and texts that look like one.

    Args:
        part: Mappings, lists and values, as YAML has them.
    """
    if isinstance(part, Mapping):
        own = [str(part["class_path"])] if "class_path" in part else []
        return [*own, *chain.from_iterable(class_paths(part[key]) for key in part if key != "class_path")]
    if isinstance(part, list):
        return list(chain.from_iterable(map(class_paths, part)))
    return [part] if isinstance(part, str) and _CLASS.fullmatch(part) else []


def _sources(module: str) -> list[Path]:
    """Return the source files of a module or a package that is not an installed one."""
    # The runs, which are started as ``python -m llmhd_pl``, look into the working directory first.
    spec = PathFinder.find_spec(module, [str(Path.cwd()), *sys.path])
    if spec is None or module == "llmhd_pl":
        return []
    found = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or ""]]
    installed = {Path(path).resolve() for name, path in sysconfig.get_paths().items() if "lib" in name}
    own = [p for p in found if not installed & {*p.parents} and not {"site-packages", "dist-packages"} & {*p.parts}]
    files = chain.from_iterable(place.rglob("*.py") if place.is_dir() else [place] for place in own)
    return sorted(file for file in files if file.is_file())  # a module in an archive is none
