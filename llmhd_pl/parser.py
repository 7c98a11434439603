"""The parser of the commands, which says in a few lines what is wrong with an argument, and what there is instead."""

import difflib
import re
import sys
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

import llmhd_pl


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors come without the hundred lines of all options, and with a hint."""

    def print_usage(self, file: Any = None) -> None:
        """Print the usage, but not before an error, where it would hide what is wrong."""
        if file is not sys.stderr:
            super().print_usage(file)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the process with an error.

        Args:
            message: What is wrong.
            ex: What has raised it.

        Raises:
            SystemExit: Always, with the code 2.
        """
        # The error of a parser within another is part of that one's message.
        super().error("\n".join([message, *hints(message)]) if self.exit_on_error else message, ex)


def hints(message: str) -> list[str]:
    """Return what may help somebody who reads an error of jsonargparse.

    Args:
        message: The error.
    """
    found = []
    keys = list(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', message)))
    for name in dict.fromkeys(re.findall(r"Expected a dot import path string: ([\w.]+)", message)):
        near = difflib.get_close_matches(name, llmhd_pl.__all__)
        if name in llmhd_pl.__all__:
            found.append(f"{name} is nothing that {keys[-1] if keys else 'this'} can be.")
            continue
        found.append(
            f"There is no class {name}. "
            + (f"Did you mean {' or '.join(near)}? " if near else "")
            + "A class of your own is named with its module: my_module.MyClass."
        )
    pattern = r"given class_path '([\w.]+)':\s+(?:- )?Option '(\w+)' is not accepted"
    for path, option in dict.fromkeys(re.findall(pattern, message)):
        if keys and keys[0] in ("model", "data", "denoising", "scorer"):
            name = path.rpartition(".")[2]
            found.append(f"{name} has no argument {option}: --{'.'.join(keys)}.help {name} lists those that it has.")
    return found
