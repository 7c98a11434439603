"""The progress bar that is shown while a language model is asked."""

from collections.abc import Callable

from rich import get_console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Speed(ProgressColumn):
    """A column with the steps per second."""

    def render(self, task: Task) -> Text:
        """Return the speed of the last steps, once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class AskingBar:
    """A bar with the speed and the time left, which disappears at the end; no bar if there is nothing to do.

    As a context manager it gives a function that advances the bar by a number of steps.

    Args:
        what: What is asked about; shown in front of the bar.
        total: The number of steps.

    Attributes:
        progress: The bar; None if ``total`` is 0.
    """

    def __init__(self, what: str, total: int) -> None:
        self.progress: Progress | None = None
        if total:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed())
            console = get_console()
            # In a file, a bar that disappears leaves an empty line for every round of questions.
            nobody = not (console.is_terminal or console.is_jupyter)
            self.progress = Progress(*columns, TimeRemainingColumn(), transient=True, disable=nobody)
            self._task = self.progress.add_task(f"asking the language model: {what}", total=total)

    def __enter__(self) -> Callable[[int], None]:
        progress = self.progress
        if progress is None:
            return lambda steps: None
        progress.start()
        return lambda steps: progress.advance(self._task, steps)

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()
