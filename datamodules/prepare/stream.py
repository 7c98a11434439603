"""Reading the lines of a dump as a stream: packed or not, in a tar archive or not, with a bar."""

import codecs
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llmhd_pl.datamodules.prepare.sources import Part

BLOCK = 4 << 20
"""The bytes that are read at once."""
_LONGEST = 64 << 20
"""The bytes from which a line is taken for a sign that the file has none."""
_SHOWN_FROM = 8 << 20
"""The bytes of a file, which may be packed, from which reading takes so long, about a second, that a bar is shown."""


@dataclass(frozen=True)
class Block:
    """Some whole lines of a file.

    Attributes:
        number: The number of the first line, counted from 1.
        lines: The lines.
    """

    number: int
    lines: bytes


class Stream:
    """The lines of a file, with a bar that shows how far they are read and the time left.

    Args:
        part: The file.

    Raises:
        ValueError: If the archive has no such file, or the file is cut off, damaged or has no lines.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        size = part.path.stat().st_size
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True, disable=size < _SHOWN_FROM
        )
        self._task = self._bar.add_task(self._name(), total=size)

    def __enter__(self) -> "Stream":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _name(self) -> str:
        return f"reading {self.part.name}"

    def count(self, number: int, what: str) -> None:
        """Show a number beside the bar.

        Args:
            number: The number.
            what: What is counted.
        """
        self._bar.update(self._task, description=f"{self._name()}: {number:,} {what}")

    def blocks(self) -> Iterator[Block]:
        """Walk through the file.

        Yields:
            The next whole lines, about 4 MiB of them.
        """
        number, rest = 1, b""
        with self._opened() as (raw, file):
            while chunk := file.read(BLOCK):
                self._bar.update(self._task, completed=raw.tell())
                end = chunk.rfind(b"\n") + 1
                if end == 0:
                    rest += chunk
                    if len(rest) > _LONGEST:
                        raise ValueError(
                            f"{self.part}, line {number} is longer than {_LONGEST >> 20} MiB. A dump has one object "
                            "on each line; take the file as its owner publishes it."
                        )
                    continue
                lines, rest = rest + chunk[:end], chunk[end:]
                yield Block(number, lines.removeprefix(codecs.BOM_UTF8) if number == 1 else lines)
                number += lines.count(b"\n")
            if rest:
                yield Block(number, rest)

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """Open the file and what is in it; errors of reading become errors that name the file."""
        with self.part.path.open("rb") as raw:
            file: IO[bytes] = raw
            if raw.peek(2)[:2] == b"\x1f\x8b":
                file = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]
            try:
                if self.part.member is None:
                    yield raw, file
                else:
                    yield raw, self._unpacked(file, self.part.member)
            except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
                raise ValueError(
                    f"{self.part.path} is cut off or damaged ({error}). Download it again, and compare its size."
                ) from error

    def _unpacked(self, file: IO[bytes], member: str) -> IO[bytes]:
        """Go forward to a file in an archive. Nothing of the archive is written to the disk."""
        archive = tarfile.open(fileobj=file, mode="r|")  # noqa: SIM115 -- it closes nothing: the file is not its own
        names = []
        for entry in archive:
            names.append(entry.name)
            if entry.isfile() and entry.name.rpartition("/")[2] == member:
                found = archive.extractfile(entry)
                assert found is not None
                return found
        raise ValueError(
            f"{self.part.path} has no file {member}; it holds {', '.join(names[:10]) or 'nothing'}. Take the archive "
            "as its owner publishes it."
        )
