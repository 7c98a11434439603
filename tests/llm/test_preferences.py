import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from titles import TITLES

from llmhd_pl.llm.preferences import Preferences
from llmhd_pl.llm.scorer import Preference


def test_what_changed_and_why() -> None:
    preferences = Preferences()
    preferences.update(2, "summary", {5: "likes tea", 3: "likes coffee"})
    preferences.update(4, "revision", {3: "likes cake"}, disliked={3: ["Coffee"], 9: ["Milk"]}, liked={3: [], 9: ["A"]})
    preferences.update(6, "revision", {5: "likes green tea"}, disliked={}, liked={5: ["Sencha", "Gyokuro"]})
    assert preferences.current == {5: "likes green tea", 3: "likes cake"}
    assert preferences.changes == [
        {"epoch": 2, "user": 3, "cause": "summary", "after": "likes coffee"},
        {"epoch": 2, "user": 5, "cause": "summary", "after": "likes tea"},
        {
            **{"epoch": 4, "user": 3, "cause": "revision", "disliked": ["Coffee"]},
            **{"before": "likes coffee", "after": "likes cake"},
        },
        {
            **{"epoch": 6, "user": 5, "cause": "revision", "liked": ["Sencha", "Gyokuro"]},
            **{"before": "likes tea", "after": "likes green tea"},
        },
    ]


def test_lists_of_items_are_kept_but_only_their_revisions_are_told() -> None:
    preferences = Preferences()
    preferences.update(0, "summary", {1: [4, 5]})
    assert preferences.current == {1: [4, 5]} and preferences.changes == []
    preferences.update(3, "revision", {1: [4]}, disliked={1: ["Five"]})
    assert preferences.changes == [{"epoch": 3, "user": 1, "cause": "revision", "disliked": ["Five"]}]


def test_a_line_per_change_and_no_half_written_file(tmp_path: Path) -> None:
    preferences = Preferences()
    path = tmp_path / "new" / "preferences.jsonl"
    preferences.write(path)
    assert path.read_text() == ""
    preferences.update(1, "summary", {7: "Krimis aus\nKöln 📚"})
    preferences.write(path)
    preferences.update(2, "revision", {7: "Köln"}, liked={7: ["Kölsch"]})
    preferences.write(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == preferences.changes and "Köln 📚" in lines[0]
    assert [file.name for file in path.parent.iterdir()] == ["preferences.jsonl"]


def test_only_what_is_new_is_written_unless_the_file_is_not_as_it_was_left(tmp_path: Path) -> None:
    preferences, path = Preferences(), tmp_path / "preferences.jsonl"
    path.write_text("of an earlier run\n")
    for epoch in range(3):
        preferences.update(epoch, "summary", {epoch: "Käse"})
        preferences.write(path)
        if epoch == 0:
            inode = path.stat().st_ino
    assert path.stat().st_ino == inode  # the file was not made anew
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == preferences.changes
    for spoiled in ("of another run\n", "\n".join(lines)[:-3], None):
        path.unlink() if spoiled is None else path.write_text(spoiled, encoding="utf-8")
        preferences.write(path)
        assert path.read_text(encoding="utf-8").splitlines() == lines
    preferences.load_state_dict({"current": {}, "changes": preferences.changes[:1]})
    preferences.write(path)
    assert path.read_text(encoding="utf-8").splitlines() == lines[:1]


def test_a_state_is_a_copy_of_plain_python_and_goes_round() -> None:
    preferences, other = Preferences(), Preferences()
    preferences.update(1, "summary", {7: "tea", 8: "ale"})
    state = preferences.state_dict()
    preferences.update(2, "revision", {7: "coffee"})
    assert state["current"] == {7: "tea", 8: "ale"} and len(state["changes"]) == 2
    other.update(0, "summary", {1: "forgotten"})
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert other.own == {"current": {}, "changes": []}  # nothing since it was loaded
    other.update(2, "revision", {8: "stout"})
    assert other.own["current"] == {8: "stout"} and len(other.own["changes"]) == 1 and len(state["changes"]) == 2


changes = st.lists(st.tuples(st.integers(0, 3), st.dictionaries(st.integers(0, 7), st.text(max_size=3))), max_size=6)


@given(changes, changes, st.integers(1, 3))
def test_processes_merge_to_the_state_of_one(
    before: list[tuple[int, dict[int, str]]], after: list[tuple[int, dict[int, str]]], processes: int
) -> None:
    """Users are dealt out; a checkpoint in between is loaded by all, as in a resumed run."""

    def apply(preferences: Preferences, updates: list[tuple[int, dict[int, str]]], mine: int | None = None) -> None:
        for epoch, texts in updates:
            new: dict[int, Preference] = {
                user: text for user, text in texts.items() if mine is None or user % processes == mine
            }
            first = {user: text for user, text in new.items() if user not in preferences.current}
            preferences.update(epoch, "summary", first)
            preferences.update(epoch, "revision", {user: text for user, text in new.items() if user not in first})

    def ordered(state: dict[str, list[dict[str, object]]]) -> list[str]:
        return sorted(json.dumps(change) for change in state["changes"])

    one, several = Preferences(), [Preferences() for _ in range(processes)]
    before, after = (sorted(part, key=lambda update: update[0]) for part in (before, after))
    for updates in (before, [(epoch + 4, texts) for epoch, texts in after]):
        apply(one, updates)
        for number, preferences in enumerate(several):
            apply(preferences, updates, number)
        merged = [preferences.merged([part.own for part in several]) for preferences in several]
        assert all(state == merged[0] for state in merged)
        assert merged[0]["current"] == one.current and ordered(merged[0]) == ordered(one.state_dict())
        assert [change["epoch"] for change in merged[0]["changes"]] == [change["epoch"] for change in one.changes]
        for preferences in several:
            preferences.load_state_dict(merged[0])


def test_merged_changes_are_in_order_whoever_made_them() -> None:
    one, two = Preferences(), Preferences()
    one.update(0, "summary", {4: "a"})
    two.update(0, "summary", {1: "b"})
    two.update(0, "revision", {1: "c"})
    one.update(1, "revision", {4: "d"})
    two.update(1, "summary", {3: "e"})
    merged = one.merged([one.own, two.own])
    assert [(change["epoch"], change["cause"], change["user"]) for change in merged["changes"]] == [
        *((0, "summary", 1), (0, "summary", 4), (0, "revision", 1), (1, "summary", 3), (1, "revision", 4)),
    ]
    assert merged["current"] == {4: "d", 1: "c", 3: "e"}


@pytest.mark.parametrize("title", TITLES)
def test_any_text_is_written_on_one_line(tmp_path: Path, title: str) -> None:
    preferences, path = Preferences(), tmp_path / "preferences.jsonl"
    for epoch in range(2):  # whole, and appended
        preferences.update(epoch, "revision", {epoch: f"likes {title}"}, disliked={epoch: [title]})
        preferences.write(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == preferences.changes


def test_half_a_line_of_a_killed_process_is_repaired_by_the_next_write(tmp_path: Path) -> None:
    preferences, path = Preferences(), tmp_path / "preferences.jsonl"
    preferences.update(1, "summary", {7: "tea"})
    preferences.write(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-9])
    for resumed in (preferences, Preferences()):
        resumed.load_state_dict(preferences.state_dict())
        resumed.write(path)
        assert path.read_bytes() == whole


def test_a_disk_that_is_full_leaves_whole_lines_and_the_next_write_adds_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preferences, path = Preferences(), tmp_path / "preferences.jsonl"
    preferences.update(1, "summary", {7: "tea"})
    preferences.write(path)
    whole = path.read_bytes()
    preferences.update(2, "revision", {7: "coffee"})

    class HalfFull(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, *_, **__: HalfFull(self, "a"))
    with pytest.raises(OSError, match=rf"{path} could not be written: No space left on device. Free space"):
        preferences.write(path)
    monkeypatch.undo()
    assert path.read_bytes() == whole
    preferences.write(path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == preferences.changes
