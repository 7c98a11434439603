"""Dumps that are damaged, hostile or missing, and runs that are killed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dumps
import pytest
from dumps import packed
from small_data import pairs_of
from test_prepare import REVIEWS, liked, loaded, many, prepared

from llmhd_pl.__main__ import main
from llmhd_pl.datamodules.prepare import prepare

REVIEW_FILE = "yelp_academic_dataset_review.json"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with Yelp's files, whose reviews can be changed."""
    return dumps.yelp(tmp_path / "raw", many())


def lines_of(raw: Path) -> list[bytes]:
    return (raw / REVIEW_FILE).read_bytes().splitlines()


# What the files may look like


def test_blank_lines_windows_ends_a_mark_and_no_last_end(tmp_path: Path, raw: Path) -> None:
    prepared(tmp_path, k_core=3)
    plain = liked(loaded(tmp_path / "out"))
    (raw / REVIEW_FILE).write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines_of(raw)))
    report = prepare("yelp", str(raw), str(tmp_path / "again"), k_core=3)
    assert liked(loaded(tmp_path / "again")) == plain and report.broken == []


@pytest.mark.parametrize("name", ["yelp_dataset.tgz", "plain.tar"])
def test_archives_packed_or_not(tmp_path: Path, raw: Path, name: str) -> None:
    prepared(tmp_path, k_core=3)
    dumps.yelp_tar(tmp_path / "packed", many(), name)
    prepare("yelp", str(tmp_path / "packed"), str(tmp_path / "again"), k_core=3)
    assert liked(loaded(tmp_path / "again")) == liked(loaded(tmp_path / "out"))


def test_files_that_are_unpacked_or_packed_under_their_names(tmp_path: Path, raw: Path) -> None:
    (raw / f"{REVIEW_FILE}.gz").write_bytes(packed(lines_of(raw), members=5))
    (raw / REVIEW_FILE).unlink()
    report = prepared(tmp_path, k_core=3)
    assert report.reviews == len(many()) and report.files[0][0] == f"{REVIEW_FILE}.gz"


def test_identifiers_that_are_escaped(tmp_path: Path) -> None:
    names = ["d\u00e9j\u00e0", 'quo"te', "back\\slash", "\U0001f600", "comma, brace}"]
    reviews = [(f"U{user}", name, 5.0, 1) for user in range(3) for name in names]
    for write, source in ((dumps.yelp, "yelp"), (dumps.steam, "steam"), (dumps.amazon_2014, "amazon")):
        write(tmp_path / source, reviews)
        report = prepare(source, str(tmp_path / source), str(tmp_path / "out" / source), k_core=0)  # type: ignore[arg-type]
        inter = loaded(tmp_path / "out" / source).interactions
        assert inter.item_names == sorted(names) and report.described == 5 and all(inter.items)


def test_the_first_bytes_decide_whether_lines_are_literals(tmp_path: Path) -> None:
    """Some 2014 categories of reviews went round as literals, too."""
    dumps.amazon_2014(tmp_path / "raw", REVIEWS, "reviews_Books.json.gz")
    path = tmp_path / "raw" / "reviews_Books.json.gz"
    lines = [repr(json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()]
    path.write_bytes(packed(lines))
    assert prepared(tmp_path, "amazon", k_core=2).train == 3


# Broken lines


def test_broken_lines_are_left_out_counted_and_shown(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, k_core=3)
    plain = liked(loaded(tmp_path / "out"))
    lines = lines_of(raw)
    lines.insert(4, b"null")
    lines.insert(7, lines[0].replace(b'"stars": ', b'"stars": NaN, "was": '))
    (raw / REVIEW_FILE).write_bytes(b"\n".join(lines))
    again = str(tmp_path / "again")
    main(["prepare", "yelp", str(raw), again, "--k_core=3", "--broken_share=0.05"])
    printed = " ".join(capsys.readouterr().out.split())
    expected = f"{REVIEW_FILE}: 2 of {len(lines)} lines were broken and left out: line 5: JSON, but not an object"
    assert expected in printed and "line 8: stars is nan, not a finite number" in printed
    assert expected in (tmp_path / "again" / "README.md").read_text()
    assert liked(loaded(tmp_path / "again")) == plain


def test_too_many_broken_lines_are_refused(tmp_path: Path, raw: Path) -> None:
    lines = lines_of(raw)
    (raw / REVIEW_FILE).write_bytes(b"\n".join([*lines, b"{}", b"{}"]))
    with pytest.raises(ValueError, match=rf"{REVIEW_FILE}: 2 of {len(lines) + 2} lines are broken, more than the sha"):
        prepared(tmp_path, k_core=3, broken_share=1.9 / (len(lines) + 2))
    assert not (tmp_path / "out").exists()
    assert prepared(tmp_path, k_core=3, broken_share=2 / (len(lines) + 2)).broken != []


def test_a_file_that_is_mostly_broken_is_refused_before_its_end(tmp_path: Path, raw: Path) -> None:
    (raw / REVIEW_FILE).write_bytes(b"\n".join([*lines_of(raw), *[b"{}"] * 2000]))
    with pytest.raises(ValueError, match=r"of the first .* lines are broken"):
        prepared(tmp_path, k_core=3)


def test_hostile_lines_in_a_dump_of_literals(tmp_path: Path) -> None:
    dumps.steam(tmp_path / "raw", many())
    path, touched = tmp_path / "raw" / "steam_reviews.json.gz", tmp_path / "touched"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    hostile = [f"__import__('os').system('touch {touched}')".encode(), b"{'username': " + b"[" * 100_000, b"-" * 99_999]
    path.write_bytes(packed([*lines, *hostile]))
    report = prepared(tmp_path, "steam", k_core=3, broken_share=0.05)
    assert report.reviews == len(many()) and "3 of" in report.broken[0]
    assert not touched.exists()


def test_broken_lines_about_items(tmp_path: Path, raw: Path) -> None:
    path = raw / "yelp_academic_dataset_business.json"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([b'{"name": "no id"}', *lines, b"{" + lines[0][:40]]))
    report = prepared(tmp_path, k_core=3, broken_share=0.2)
    assert "2 of 14 lines" in report.broken[0] and "line 1: business_id is missing" in report.broken[0]
    assert report.described == 12
    with pytest.raises(ValueError, match=r"business.json: 2 of 14 lines are broken"):
        prepare("yelp", str(raw), str(tmp_path / "again"), k_core=3)


# Damaged and wrong files


@pytest.mark.parametrize("cut", [1, 12, 1500])
def test_a_gzip_file_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    dumps.amazon_2018(tmp_path / "raw", many())
    path = tmp_path / "raw" / "Toys_and_Games_5.json.gz"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=rf"{path} is cut off or damaged .*Download it again"):
        prepared(tmp_path, "amazon")
    assert not (tmp_path / "out").exists()


def test_a_gzip_file_with_a_wrong_byte_or_with_something_behind_it(tmp_path: Path) -> None:
    dumps.amazon_2018(tmp_path / "raw", many())
    path = tmp_path / "raw" / "meta_Toys_and_Games.json.gz"
    whole = path.read_bytes()
    for data in (whole[:200] + bytes([whole[200] ^ 255]) + whole[201:], whole + b"<html>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{path} is cut off or damaged"):
            prepared(tmp_path, "amazon", k_core=2)


def test_an_archive_that_is_cut_off(tmp_path: Path) -> None:
    dumps.yelp_tar(tmp_path / "raw", many(), "plain.tar")
    path = tmp_path / "raw" / "plain.tar"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=rf"{path} is cut off or damaged|{path} has no file"):
        prepared(tmp_path)


def test_an_archive_of_something_else(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "other").mkdir()
    subprocess.run(["tar", "-cf", str(tmp_path / "other" / "yelp.tar"), "-C", str(raw), "."], check=True)
    (raw / REVIEW_FILE).rename(raw / "reviews.json")
    subprocess.run(["tar", "-cf", str(tmp_path / "other" / "yelp.tar"), "-C", str(raw), "."], check=True)
    with pytest.raises(ValueError, match=rf"yelp.tar has no file {REVIEW_FILE}; it holds .*reviews.json"):
        prepare("yelp", str(tmp_path / "other"), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first lines are no reviews of yelp; looked for the fields user_id, business_id, stars, date"),
        (b"user_id,business_id,stars,date\n", "the first lines are no reviews of yelp"),
        (b"PK\x03\x04", "the first lines are no reviews of yelp"),
        (
            json.dumps({"reviewerID": "A", "asin": "B", "overall": 5.0}).encode(),
            "the first lines are no reviews of yelp",
        ),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, raw: Path, content: bytes, message: str) -> None:
    (raw / REVIEW_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{REVIEW_FILE}: {message}"):
        prepared(tmp_path)


def test_one_long_line(tmp_path: Path, raw: Path) -> None:
    start = lines_of(raw)[0]
    (raw / REVIEW_FILE).write_bytes(start + b"\n" + b" " * (70 << 20))
    with pytest.raises(ValueError, match=f"{REVIEW_FILE}, line 2 is longer than 64 MiB"):
        prepared(tmp_path)


def test_items_of_another_category(tmp_path: Path) -> None:
    dumps.amazon_2023(tmp_path / "raw", many())
    dumps.amazon_2023(tmp_path / "other", [("A", "B00OTHER", 5.0, 1)])
    name = "meta_Books.jsonl.gz"
    (tmp_path / "raw" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name}: none of its 1 lines is about an item of the reviews, .* '00000'"):
        prepared(tmp_path, "amazon", k_core=2)


def test_files_that_are_missing_or_several(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="raw does not exist"):
        prepared(tmp_path)
    (tmp_path / "raw").mkdir()
    for source, looked in (
        ("yelp", f"{REVIEW_FILE} and .*business.json, or the archive yelp_dataset.tar"),
        ("steam", r"steam_reviews.json.gz; it holds nothing"),
        ("amazon", r"reviews_X_5.json.gz, .*X.jsonl.gz \(2023\)"),
    ):
        with pytest.raises(FileNotFoundError, match=f"raw has no file {looked}"):
            prepared(tmp_path, source)
    dumps.amazon_2014(tmp_path / "raw", REVIEWS, "reviews_Books.json.gz")
    dumps.amazon_2014(tmp_path / "raw", REVIEWS)
    with pytest.raises(
        ValueError, match=r"several files .*reviews_Books.json.gz, reviews_Books_5.json.gz. Move all but"
    ):
        prepared(tmp_path, "amazon")
    for path in (tmp_path / "raw").glob("meta*"):
        path.unlink()
    (tmp_path / "raw" / "reviews_Books_5.json.gz").unlink()
    (tmp_path / "raw" / ".DS_Store.json").touch()
    with pytest.raises(FileNotFoundError, match=r"meta_X.json.gz or meta_X.jsonl.gz; it holds .*reviews_Books.json.gz"):
        prepared(tmp_path, "amazon")


def test_nothing_is_left(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(ValueError, match=r"No interaction is left: .* with 99 or more\. Lower k_core"):
        prepared(tmp_path, k_core=99)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rating_threshold": float("nan")}, "rating_threshold is nan"),
        ({"k_core": -1}, "k_core is -1"),
        ({"users": 0}, "users is 0"),
        ({"split": "late"}, "split is 'late'"),
        ({"broken_share": 1}, "broken_share is 1"),
        ({"broken_share": float("nan")}, "broken_share is nan"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, raw: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, **options)


def test_the_command_says_what_is_wrong(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["yelp", str(tmp_path / "nowhere"), str(tmp_path / "out")], "nowhere does not exist"),
        (["goodreads", str(raw), str(tmp_path / "out")], "goodreads"),
        (["yelp", str(raw), str(raw)], "raw is not empty"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["prepare", *arguments])
        assert ended.value.code != 0 and message in capsys.readouterr().err


# Processes


def large(folder: Path, copies: int) -> int:
    """Steam's reviews, long enough for processes of their own; a literal takes the longest to parse."""
    dumps.steam(folder, many())
    path = folder / "steam_reviews.json.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    long = [line.replace(b"It's", os.urandom(300).hex().encode()) for line in lines]
    path.write_bytes(gzip.compress(b"\n".join(long * copies), 0))
    return len(lines) * copies


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    rows = large(tmp_path / "large", 90)
    assert (tmp_path / "large" / "steam_reviews.json.gz").stat().st_size > 1 << 20
    report = prepare("steam", str(tmp_path / "large"), str(tmp_path / "one"), k_core=3)
    dumps.steam(tmp_path / "small", many())
    prepare("steam", str(tmp_path / "small"), str(tmp_path / "other"), k_core=3)
    one, other = loaded(tmp_path / "one").interactions, loaded(tmp_path / "other").interactions
    assert pairs_of(one.train) == pairs_of(other.train) and one.items == other.items
    assert (report.reviews, report.repeated) == (rows, rows - len(many()))


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_folder_and_no_process(tmp_path: Path) -> None:
    large(tmp_path / "raw", 600)
    out = tmp_path / "data" / "out"
    command = [sys.executable, "-m", "llmhd_pl", "prepare", "steam", str(tmp_path / "raw"), str(out), "--k_core", "3"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[int] = []
    deadline = time.monotonic() + 120
    while not workers and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        workers = [
            child for child in children(process.pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        time.sleep(0.05)
    time.sleep(1)  # in the midst of its lines
    assert workers and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_what_a_killed_run_has_left_is_removed(tmp_path: Path, raw: Path) -> None:
    for name in (".out.0123abcd.part", ".out.x.part", ".other.0123abcd.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trn_mat.pkl").write_bytes(b"half")
    prepared(tmp_path, k_core=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123abcd.part", ".out.x.part", "out", "raw"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmhd_pl.datamodules.prepare.writing.write_ids", full)
    with pytest.raises(OSError, match="out could not be written: No space left"):
        prepared(tmp_path, k_core=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_process_that_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large(tmp_path / "raw", 90)
    monkeypatch.setattr("llmhd_pl.datamodules.prepare.reading.end_with_parent", os.abort)
    with pytest.raises(RuntimeError, match=r"a process that parsed its lines has ended.*__main__"):
        prepared(tmp_path, "steam")
