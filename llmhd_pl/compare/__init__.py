"""Compare methods: ``llmhd compare --config yelp -- --data.data_dir data/yelp``.

Every run of a grid is a normal ``llmhd fit`` in a folder of its own, ``runs/compare/GRID/RUN``, so that it can be
inspected, resumed and repeated. A run that ends well adds one line to ``GRID.jsonl`` in the grid's output folder, and
is not started again: remove the line to repeat it. If the files of the data have changed since, that is an error; if
code of your own has, the command says so. A run that was interrupted goes on where it was. The tables and the plot show
what is finished, also while the rest is running.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from llmhd_pl.compare.grid import Grid, Run
from llmhd_pl.compare.records import finished, of_other_code, unfinished
from llmhd_pl.compare.run import execute
from llmhd_pl.compare.tables import METRICS, show, summary, table, write
from llmhd_pl.terminal import printable

__all__ = ["METRICS", "Grid", "Run", "execute", "finished", "main", "summary", "table", "unfinished", "write"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not finished, and print the table.

    Args:
        arguments: The arguments; None takes those of the process.

    Raises:
        SystemExit: If the grid or a file of records is wrong, a run fails, or the command is interrupted.
    """
    parser = argparse.ArgumentParser(
        "llmhd compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="the grid: a file, or the name of a bundled one, such as yelp")
    parser.add_argument("--table", action="store_true", help="only show the table of what is finished")
    parser.add_argument(
        "more",
        nargs="*",
        metavar="-- ARGUMENTS",
        help="further arguments of every run, after two hyphens; all but --data.data_dir are part of what is compared",
    )
    options = parser.parse_args(arguments)
    try:
        grid = Grid.load(options.config, options.more)
        done = finished(grid)
        if changed := of_other_code(grid, done):
            print(
                f"Your code has changed since these runs were recorded: {', '.join(changed)}. Their figures are those "
                f"of the code before. Remove their lines from {grid.output / grid.name}.jsonl to repeat them."
            )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    runs = grid.runs()
    missing = [] if options.table else [run for run in runs if run not in done]
    if done and not options.table:
        print(f"{len(done)} of {len(runs)} runs are not started: their records are in {grid.output}.")
    try:
        failed = execute_all(grid, missing) if missing else 0
    except KeyboardInterrupt:
        print("Interrupted. Started again, the command goes on from the runs' last checkpoints.")
        raise SystemExit(130) from None  # as a shell has it
    short = write(grid)
    if len(short):
        show(short)
        print(f"All columns, and the plot: {grid.output / grid.name}.md, .csv, .tex and .png")
    if failed:
        raise SystemExit(
            f"{failed} of {len(missing)} runs failed. Started again, the command goes on with them, from their last "
            "checkpoints if they have any."
        )


def execute_all(grid: Grid, runs: Sequence[Run]) -> int:
    """Execute runs, print the errors of those that fail, and write the tables after each.

    Args:
        grid: The grid.
        runs: The runs.

    Returns:
        The number of runs that failed.
    """
    failed = 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress, ThreadPoolExecutor(grid.processes) as pool:
        task = progress.add_task("runs", total=len(runs))
        futures = {pool.submit(execute, grid, run): run for run in runs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if error is not None:
                    failed += 1
                    progress.console.print(Text(printable(error), style="red"))
                progress.update(task, advance=1, description=f"last: {futures[future].name}")
                write(grid)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what waits would otherwise be started, also after Ctrl-C
            raise
    return failed
