"""A demonstration of one to three minutes: ``llmhd quickstart``.

Trains LightGCN on a synthetic book shop, without and with LLMHD, and shows what LLMHD gained. The runs are in
``runs/quickstart-without`` and ``runs/quickstart-llmhd``; starting it again overwrites them. Arguments, such as
``--trainer.accelerator cpu``, are passed on to both trainings (``llmhd fit --help``).
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence

from llmhd_pl import report

RUNS = {"quickstart-without": ["--denoising=null"], "quickstart-llmhd": []}
"""The names of the runs, first the one without denoising, and the arguments that are theirs alone."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train twice and report.

    Args:
        arguments: Further arguments of both trainings; None takes those of the process.

    Raises:
        SystemExit: If a training fails, with its exit code.
    """
    parser = argparse.ArgumentParser(
        "llmhd quickstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _, more = parser.parse_known_args(arguments)
    for name, own in RUNS.items():
        fit = [sys.executable, "-m", "llmhd_pl", "fit", "--config=quickstart", *own, *more]
        done = subprocess.run([*fit, f"--trainer.logger.init_args.version={name}"], check=False)
        if done.returncode != 0:
            raise SystemExit(done.returncode)
    report.main([f"runs/{name}" for name in RUNS])


if __name__ == "__main__":
    main()
