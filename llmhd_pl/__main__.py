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
    """Run the command line. It finds the modules in the current folder, also as a script, as ``python -m`` does.

    Args:
        arguments: The arguments; None takes those of the process.
    """
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, "")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        print(f"llmhd-pl {llmhd_pl.__version__}")
    elif given and given[0] in COMMANDS:
        import_module(COMMANDS[given[0]]).main(given[1:])
    else:
        import_module("llmhd_pl.cli").run(given)


if __name__ == "__main__":
    main()
