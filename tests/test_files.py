import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from titles import TITLES

from llmhd_pl import files
from llmhd_pl.files import check_new_folder, json_text, storable, whole_file, whole_folder, write_or_warn


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with whole_file(path) as part:
        part.write_text("one")
        assert not path.exists() and part.parent == path.parent
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError, match="fire"), whole_file(path) as part:
        part.write_text("half")
        raise RuntimeError("fire")
    assert path.read_text() == "one" and [file.name for file in path.parent.iterdir()] == ["file.txt"]


KILLED = """
import sys, time
from pathlib import Path
from llmhd_pl.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("whole")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_text() == "whole"
    with whole_file(path) as part:  # what the other has left is in nobody's way
        part.write_text("new")
    assert path.read_text() == "new"


def test_several_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path, texts = tmp_path / "file.txt", [letter * 100_000 for letter in "abcdef"]
    meet = threading.Barrier(len(texts))

    def write(text: str) -> None:
        with whole_file(path) as part, part.open("w") as file:
            file.write(text[:50_000])
            file.flush()
            meet.wait()
            file.write(text[50_000:])

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts and [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, diary = tmp_path / "file.txt", tmp_path / "diary"
    diary.write_text("Dear diary")
    path.symlink_to(diary)
    with whole_file(path) as part:
        part.write_text("new")
    assert (diary.read_text(), path.read_text(), path.is_symlink()) == ("Dear diary", "new", False)
    monkeypatch.setattr("secrets.token_hex", lambda _: "0badcafe")
    (tmp_path / "file.txt.0badcafe.part").symlink_to(diary)
    (tmp_path / "file.txt.part").symlink_to(diary)
    with pytest.raises(FileExistsError, match="could not be written"), whole_file(path) as part:
        part.write_text("new")
    assert diary.read_text() == "Dear diary" and path.read_text() == "new"


def test_the_mode_is_that_of_any_other_file(tmp_path: Path) -> None:
    path, other = tmp_path / "file.txt", tmp_path / "other.txt"
    before = os.umask(0o027)
    try:
        other.write_text("")
        with whole_file(path) as part:
            part.write_text("")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode) == 0o640


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, order, replace = tmp_path / "file.txt", [], Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda _: order.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda *given: (order.append("replace"), replace(*given)))
    with whole_file(path) as part:
        part.write_text("new")
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_file_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))  # such as that of write(), which knows no path

    message = rf"{path} could not be written: {os.strerror(number)}. Free space"
    with pytest.raises(OSError, match=message) as caught, whole_file(path) as part:
        fail(part)
    assert caught.value.errno == number
    with pytest.warns(UserWarning, match=rf"{path} could not be written.*The run goes on without this file"):
        write_or_warn(path, fail)
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["file.txt"]
    with (
        pytest.raises(NotADirectoryError, match=rf"{path}/in/a.txt could not be written"),
        whole_file(path / "in/a.txt"),
    ):
        pass


def test_a_disk_that_is_full_is_named(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    message = rf"{tmp_path}/a.txt could not be written: No space left on device"
    with pytest.raises(OSError, match=message), whole_file(tmp_path / "a.txt"), Path("/dev/full").open("w") as full:
        full.write("a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("title", TITLES)
def test_any_text_can_be_written_and_read_again_line_by_line(tmp_path: Path, title: str) -> None:
    path = tmp_path / "a.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_or_warn(path, lambda part: part.write_text(json_text({"title": title}) + "\n", encoding="utf-8"))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1
    assert json.loads(path.read_bytes()) == {"title": title}
    assert storable(title).encode().decode() in (title, title.encode(errors="backslashreplace").decode())
    assert json_text("Köln 東京 📚") == '"Köln 東京 📚"'


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(RuntimeError, match="fire"), whole_folder(folder) as part:
        (part / "one.txt").write_text("half")
        raise RuntimeError("fire")
    assert list(folder.parent.iterdir()) == []
    folder.mkdir()
    with whole_folder(folder) as part:
        (part / "one.txt").write_text("one")
        assert part.parent == folder.parent and list(folder.iterdir()) == []
    assert [path.name for path in folder.iterdir()] == ["one.txt"] and list(folder.parent.iterdir()) == [folder]
    with pytest.raises(OSError, match="folder could not be written"), whole_folder(folder) as part:
        (part / "two.txt").write_text("two")
    assert [path.name for path in folder.iterdir()] == ["one.txt"] and list(folder.parent.iterdir()) == [folder]


def test_folders_that_cannot_be_new(tmp_path: Path) -> None:
    check_new_folder(tmp_path / "new" / "deep")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"is not empty\. Name a folder that is new or empty"):
        check_new_folder(tmp_path)
    with pytest.raises(ValueError, match="file is a file"):
        check_new_folder(tmp_path / "file")
    with pytest.raises(OSError, match=r"below cannot be made, because .*file is no folder"):
        check_new_folder(tmp_path / "file" / "below")
