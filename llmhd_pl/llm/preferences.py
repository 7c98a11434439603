"""Preferences: what is known about the taste of every user, and how it came to be known."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmhd_pl.files import json_text, named_error, whole_file
from llmhd_pl.llm.scorer import Preference


class Preferences:
    """The current preference of each user, and every change of it with its cause.

    Changes are plain dicts: ``epoch``, ``user``, ``cause`` ("summary" or "revision"), the titles of the ``disliked``
    and ``liked`` items that caused a revision, and ``before`` and ``after``, if they are texts.
    """

    def __init__(self) -> None:
        self.current: dict[int, Preference] = {}
        self.changes: list[dict[str, Any]] = []
        self._changed: set[int] = set()  # by this process, since the last load
        self._loaded = 0  # changes that were there when this process started
        self._written: tuple[Path, int, int] | None = None  # where, how many changes, and the bytes they take

    def update(
        self,
        epoch: int,
        cause: str,
        new: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[str]] | None = None,
        liked: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """Take over new preferences and record why they changed.

        Args:
            epoch: The epoch of the change.
            cause: "summary" or "revision".
            new: The new preferences by user.
            disliked: The titles of the items that a revision was told the user does not like.
            liked: The titles of the items that a revision was told the user likes.
        """
        for user, preference in sorted(new.items()):
            before = self.current.get(user)
            change: dict[str, Any] = {"epoch": epoch, "user": user, "cause": cause}
            for name, titles in (("disliked", disliked), ("liked", liked)):
                if titles is not None and titles.get(user):
                    change[name] = list(titles[user])
            for name, text in (("before", before), ("after", preference)):
                if isinstance(text, str):
                    change[name] = text
            # A list of items that is copied as a "summary" says nothing that the data does not say.
            if cause != "summary" or isinstance(preference, str):
                self.changes.append(change)
            self.current[user] = preference
            self._changed.add(user)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that this process knows, as plain Python."""
        return {"current": dict(self.current), "changes": list(self.changes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` or ``merged`` returned."""
        self.current, self.changes = dict(state["current"]), list(state["changes"])
        self._changed, self._loaded, self._written = set(), len(self.changes), None

    @property
    def own(self) -> dict[str, Any]:
        """What this process has changed since it started: its part for ``merged``."""
        return {
            "current": {user: self.current[user] for user in self._changed},
            "changes": self.changes[self._loaded :],
        }

    def merged(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state of all processes; each user belongs to one of them.

        Args:
            parts: ``own`` of every process.
        """
        current, changes = dict(self.current), self.changes[: self._loaded]
        new: list[dict[str, Any]] = []
        for part in parts:
            current |= part["current"]
            new += part["changes"]
        order = {"summary": 0, "revision": 1}
        new.sort(key=lambda change: (change["epoch"], order[change["cause"]], change["user"]))
        return {"current": current, "changes": changes + new}

    def write(self, path: Path) -> None:
        """Write all changes of this process as JSON lines.

        If the file is as the last call left it, only the new changes are appended: rewriting all of them after each
        epoch would take longer and longer. A process that is killed at that moment may leave half a last line, which
        ``llmhd report`` leaves out and the next call, of a resumed run, replaces. Everything else is written whole.

        Args:
            path: The file.

        Raises:
            OSError: If it cannot be written. What is there is then whole, and the next call writes everything.
        """
        written, self._written = self._written, None
        if written is not None and path.is_file() and written[::2] == (path, path.stat().st_size):
            new = "".join(json_text(change) + "\n" for change in self.changes[written[1] :]).encode()
            size = written[2]
            with named_error(path), path.open("ab", buffering=0) as file:
                try:
                    if file.write(new) != len(new):
                        raise OSError("not all of it could be written; is the disk full?")
                except OSError:
                    with contextlib.suppress(OSError):
                        os.truncate(path, size)
                    raise
        else:
            with whole_file(path) as part, part.open("w", encoding="utf-8") as whole:
                whole.writelines(json_text(change) + "\n" for change in self.changes)
        self._written = path, len(self.changes), path.stat().st_size
