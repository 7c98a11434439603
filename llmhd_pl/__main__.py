"""``llmhd COMMAND ...`` and ``python -m llmhd_pl COMMAND ...``."""

import sys
from collections.abc import Sequence
from importlib import import_module

import llmhd_pl

COMMANDS = {
    "audit": "llmhd_pl.audit",
    "compare": "llmhd_pl.compare",
    "judge": "llmhd_pl.judge",
    "prepare": "llmhd_pl.datamodules.prepare",
    "quickstart": "llmhd_pl.quickstart",
    "report": "llmhd_pl.report",
}
"""The modules of the commands that have one of their own; all others are those of ``llmhd_pl.cli``."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. It finds the modules in the current folder, also as a script.

    Args:
        arguments: The arguments; None takes those of the process.

    Raises:
        SystemExit: If a file does not exist, or the command ends with an error of its own.
    """
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.append("")  # last: a statistics.py in the folder is not to take the place of Python's
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        print(f"llmhd-pl {llmhd_pl.__version__}")
        return
    try:
        if given and given[0] in COMMANDS:
            import_module(COMMANDS[given[0]]).main(given[1:])
        else:
            import_module("llmhd_pl.cli").run(given)
    except FileNotFoundError as error:  # the message says which, and what to do
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
