"""The modules of the package, and what they import according to their source."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def modules() -> dict[str, Path]:
    """The name and the file of each module, those behind the links included."""
    found = {}
    for folder, _, files in os.walk(REPOSITORY / "llmhd_pl", followlinks=True):
        for path in (Path(folder) / file for file in files if file.endswith(".py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return dict(sorted(found.items()))


def imports(path: Path) -> Iterator[str]:
    """The dotted names of what a file imports, also within functions; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def foreign_statements() -> str:
    """The import statements at the top level of our modules that import other packages than ours, a line each."""
    lines = set()
    for path in modules().values():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                lines |= {f"import {alias.name}" for alias in node.names if not alias.name.startswith("llmhd_pl")}
            elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("llmhd_pl"):
                lines.add(ast.unparse(node))
    return "\n".join(sorted(lines))
