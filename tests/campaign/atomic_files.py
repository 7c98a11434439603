"""Faults in .inter and .item files."""

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmhd_pl.datamodules import AtomicFiles, Interactions
from tests.campaign.case import Case
from tests.campaign.outcomes import refused

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ROWS = [
    f"u{user}\ti{(user + step) % 6}\t{1 + (user + step) % 5}\t{1000 + 10 * user + step}"
    for user in range(5)
    for step in range(4)
]
TEXT = "\n".join([HEADER, *ROWS]) + "\n"
ITEMS = "item_id:token\ttitle:token_seq\tyear:float\n" + "".join(
    f"i{item}\tTitle {item}\t199{item}.0\n" for item in range(6)
)
USED: dict[str, Any] = {"rating_threshold": 2, "split": "temporal"}


def load(folder: Path, **arguments: Any) -> Interactions:
    data = AtomicFiles(str(folder), **(USED | arguments))
    data.setup()
    return data.interactions


def put(folder: Path, inter: str | bytes, item: str | bytes | None = None) -> tuple[Path, Path]:
    paths = folder / "x.inter", folder / "x.item"
    for path, content in zip(paths, (inter, item), strict=True):
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return paths


def contents(data: Interactions) -> dict[str, Any]:
    return {name: str(value) for name, value in vars(data).items() if name != "name"}


def bad(inter: str | bytes, line: int | None, *words: str, item: str | bytes | None = None) -> Callable[[Path], str]:
    """A case whose .inter file, or .item file if there is one, is refused."""

    def check(folder: Path) -> str:
        paths = put(folder, inter, item)
        return refused(lambda: load(folder), ValueError, paths[item is not None], *words, line=line)

    return check


def same(inter: str | bytes, item: str | bytes | None = ITEMS, **arguments: Any) -> Callable[[Path], str]:
    """A case that gives exactly what the plain files give."""

    def check(folder: Path) -> str:
        (folder / "plain").mkdir(), (folder / "case").mkdir()
        put(folder / "plain", TEXT, ITEMS), put(folder / "case", inter, item)
        plain, case = (contents(load(folder / name, **arguments)) for name in ("plain", "case"))
        assert plain == case, {name: (plain[name], case[name]) for name in plain if plain[name] != case[name]}
        return "read, and the same data"

    return check


def with_row(row: str, place: int = 7) -> str:
    """The file with another row in the place of one; row 0 is on line 2."""
    return "\n".join([HEADER, *ROWS[:place], row, *ROWS[place + 1 :]]) + "\n"


def columns(order: list[int], extra: str = "", value: str = "") -> str:
    """The file with its columns in another order, and one more."""
    lines = [[line.split("\t")[column] for column in order] for line in (HEADER, *ROWS)]
    return "\n".join(
        "\t".join([*line, *([value if number else extra] if extra else [])]) for number, line in enumerate(lines)
    )


def in_folder(prepare: Callable[[Path], Any], kind: type[Exception], name: str, *words: str) -> Callable[[Path], str]:
    """A case in which something other than a file is in the folder."""

    def check(folder: Path) -> str:
        prepare(folder)
        return refused(lambda: load(folder / "data"), kind, folder / name, *words)

    return check


def beside(name: str, content: bytes) -> Callable[[Path], str]:
    """A case with a hidden file beside the real ones."""

    def check(folder: Path) -> str:
        put(folder, TEXT, ITEMS)
        plain = contents(load(folder))
        (folder / name).write_bytes(content)
        assert contents(load(folder)) == plain
        return "read, and the same data"

    return check


def texts(item: str, expected: list[dict[str, str]]) -> Callable[[Path], str]:
    """A case in which the text of the first items is compared."""

    def check(folder: Path) -> str:
        put(folder, TEXT, item)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load(folder).items
        assert found[: len(expected)] == expected, found
        return "read, and the text as it stands in the file"

    return check


def made(folder: Path, *names: str) -> Path:
    (folder / "data").mkdir()
    for name in names:
        (folder / "data" / name).write_text(TEXT)
    return folder / "data"


def loop(folder: Path) -> None:
    (folder / "data").symlink_to(folder / "data")


def cases() -> list[Case]:
    """Return the cases with atomic files."""
    raw = TEXT.encode()
    found: list[tuple[str, str, Callable[[Path], str]]] = []

    def add(kind: str, **checks: Callable[[Path], str]) -> None:
        found.extend((kind, name.replace("_", " "), check) for name, check in checks.items())

    kind = "an .inter file cut off or with a row of the wrong length"
    for cut in (3, 9, 20, 45):
        found.append((kind, f"cut at byte {cut}", bad(raw[:cut], 1, "is not 'name:type'", "Put a header")))
    for lines in (2, 5, 20):
        short = "\n".join(TEXT.split("\n")[:lines]) + "\nu1\ti"
        found.append(
            (kind, f"cut in line {lines + 1}", bad(short, lines + 1, "2 fields, but the header names 4", "Separate"))
        )
    add(
        kind,
        a_field_more=bad(with_row(ROWS[7] + "\t1"), 9, "5 fields", "Separate"),
        a_tab_doubled=bad(with_row(ROWS[7].replace("\t", "\t\t", 1)), 9, "5 fields", "single tabs"),
        spaces_for_tabs=bad(with_row(ROWS[7].replace("\t", " ")), 9, "1 fields", "Separate"),
        commas_for_tabs=bad(with_row(ROWS[0].replace("\t", ","), 0), 2, "1 fields", "Separate"),
        zeros_at_the_end=bad(TEXT + "\0" * 4096, 22, "1 fields", "Separate"),
        behind_blank_lines=bad(TEXT + "\n\n\nu1\n", 25, "1 fields", "Separate"),
        a_line_of_two_megabytes=bad(with_row("u" * 2_000_000 + "\ti\t1\t1"), 9, "longer than", "Shorten"),
        header_only=bad(HEADER + "\n", None, "no rows", "Add the interactions"),
        header_without_an_end=bad(HEADER, None, "no rows", "Add the interactions"),
        header_and_blank_lines=bad(HEADER + "\n\n\n", None, "no rows", "Add the interactions"),
        empty=bad("", 1, "is not 'name:type'", "Put a header"),
        blank=bad("\n\n", 1, "is not 'name:type'", "Put a header"),
    )
    kind = "an .inter file that is not UTF-8 text"
    add(
        kind,
        gzip=bad(gzip.compress(raw), 1, "not UTF-8", "unpack it"),
        zip=bad(b"PK\x03\x04\xff\xfe" + bytes(range(256)), 1, "not UTF-8|not 'name:type'", "Convert|Put a header"),
        utf_16=bad(TEXT.encode("utf-16"), 1, "not UTF-8", "Convert"),
        utf_16_be_without_mark=bad(TEXT.encode("utf-16-be"), 1, "not 'name:type'", "Put a header"),
        utf_32=bad(TEXT.encode("utf-32"), 1, "not UTF-8", "Convert"),
        latin_1_user=bad(with_row("Andr\xe9\ti1\t5\t1").encode("latin-1"), 9, "user_id is not UTF-8", "Convert"),
        latin_1_item=bad(with_row("u1\t\xfc\t5\t1").encode("latin-1"), 9, "item_id is not UTF-8", "Convert"),
        latin_1_header=bad(TEXT.replace("rating", "n\xf6te").encode("latin-1"), 1, "not UTF-8", "Convert"),
        surrogate=bad(with_row("u\udfff\ti1\t5\t1").encode(errors="surrogatepass"), 9, "not UTF-8", "Convert"),
        overlong=bad(raw.replace(b"u3\ti3", b"u\xc0\xaf\ti3"), 14, "not UTF-8", "Convert"),
        random_bytes=bad(bytes(range(256)) * 8, 1, "not UTF-8|not 'name:type'", "Convert|Put a header"),
        a_nul_in_a_user=bad(with_row("u\0\ti1\t5\t1"), 9, "user_id holds a NUL", "Remove the row"),
        a_nul_in_an_item=bad(with_row("u1\t\0\t5\t1"), 9, "item_id holds a NUL", "Remove the row"),
    )
    kind = "a header that is wrong, or names no column that can serve"
    for name, change in {
        "without types": (HEADER.replace(":token", "").replace(":float", ""), "'user_id' is not", "Put a header"),
        "a type of RecBole's that does not exist": (HEADER.replace(":float", ":int"), "'rating:int'", "Put a header"),
        "commas": (HEADER.replace("\t", ","), "is not 'name:type'", "Put a header"),
        "a name twice": (HEADER.replace("rating", "user_id"), "'user_id' is named twice", "Rename"),
        "a tab at the end": (HEADER + "\t", "column '' is not", "Put a header"),
        "no name": (HEADER.replace("rating", ""), "':float' is not", "Put a header"),
        "quotes": (HEADER.replace("user_id:token", '"user_id:token"'), "is not 'name:type'", "Put a header"),
    }.items():
        found.append((kind, name, bad(TEXT.replace(HEADER, change[0]), 1, *change[1:])))
    for name in ("user_id", "item_id", "rating", "timestamp"):
        words = f"no column '{name}'.*it has .*other", r"Set (user|item|rating|time)_field"
        found.append((kind, f"no {name}", bad(TEXT.replace(name, "other"), None, *words)))
    for name in ("rating", "timestamp"):
        text = TEXT.replace(f"{name}:float", f"{name}:token")
        found.append((kind, f"{name} of type token", bad(text, None, "have the type float", f"Write {name}:float")))
    kind = "identifiers of type float"
    for name in ("user_id", "item_id"):
        for other in ("float", "float_seq"):
            text = TEXT.replace(f"{name}:token", f"{name}:{other}")
            found.append((kind, f"{name} of type {other}", bad(text, None, "identifiers", f"Write {name}:token")))
    item = ITEMS.replace("item_id:token", "item_id:float")
    found.append((kind, "in the .item file", bad(TEXT, None, "identifiers", "Write item_id:token", item=item)))
    kind = "a value that is used and no finite number"
    for column, name in ((2, "rating"), (3, "timestamp")):
        for value in ("nan", "inf", "-Infinity", "", "-", "1,5", "0x10", "1_0", "1e999", "None", "\u0661"):
            fields = ROWS[7].split("\t")
            fields[column] = value
            words = f"{name} is {value!r}, not a number", "Correct it or remove"
            found.append((kind, f"{name} {value!r}", bad(with_row("\t".join(fields)), 9, *words)))
    kind = "an empty identifier"
    for number in (0, 7, 19):
        for place, name in ((0, "user_id"), (1, "item_id")):
            fields = ROWS[number].split("\t")
            fields[place] = ""
            check = bad(with_row("\t".join(fields), number), number + 2, f"{name} is empty", "Remove the row")
            found.append((kind, f"{name} in line {number + 2}", check))
    kind = "an .inter file that is unusual but whole"
    add(
        kind,
        byte_order_mark=same("\ufeff" + TEXT),
        blank_last_line=same(TEXT + "\n"),
        blank_last_lines=same(TEXT + "\n\r\n\n"),
        blank_lines_within=same(TEXT.replace("\n", "\n\n")),
        no_last_line_end=same(TEXT.rstrip("\n")),
        carriage_returns_and_line_feeds=same(TEXT.replace("\n", "\r\n")),
        carriage_returns=same(TEXT.replace("\n", "\r")),
        mark_and_blank_line_and_carriage_returns=same("\ufeff" + TEXT.replace("\n", "\r\n") + "\r\n"),
        rows_backwards=same("\n".join([HEADER, *ROWS[::-1]])),
        rows_backwards_split_at_random=same("\n".join([HEADER, *ROWS[::-1]]), split="random"),
        every_row_twice=same("\n".join([HEADER, *ROWS, *ROWS[::-1]])),
        columns_backwards=same(columns([3, 2, 1, 0])),
        an_unused_number_that_is_missing=same(columns([0, 1, 2, 3], "price:float", "-")),
        an_unused_number_that_is_empty=same(columns([0, 1, 2, 3], "price:float", "")),
        an_unused_column_in_latin_1=same(
            columns([0, 1, 2, 3], "note:token", "\xe9").encode("latin-1").replace(b"\xc3", b"")
        ),
        numbers_in_other_forms=same(TEXT.replace("\t5\t", "\t+5.0e0\t").replace("\t1010", "\t 1010.0")),
        items_with_byte_order_mark=same(TEXT, "\ufeff" + ITEMS),
        items_with_blank_last_lines=same(TEXT, ITEMS + "\n\n"),
        items_with_carriage_returns=same(TEXT, ITEMS.replace("\n", "\r\n")),
        items_twice=same(TEXT, ITEMS + ITEMS.split("\n", 1)[1].replace("Title", "Another")),
    )
    kind = "a hidden file beside the real one"
    for name in ("._x.inter", ".x.inter", "._x.item", ".DS_Store", ".x.item.swp.item", ".~lock.x.inter"):
        found.append((kind, name, beside(name, b"\0\5\x16\7\xff")))
    kind = "something else in the place of a file"
    add(
        kind,
        no_folder=in_folder(lambda folder: None, FileNotFoundError, "data", "does not exist", "Set data_dir"),
        a_file_for_the_folder=in_folder(
            lambda f: (f / "data").touch(), FileNotFoundError, "data", "is a file", "Set data_dir"
        ),
        an_empty_folder=in_folder(made, FileNotFoundError, "data", r"No \.inter", "Set data_dir"),
        two_files=in_folder(lambda f: made(f, "a.inter", "b.inter"), ValueError, "data", "a.inter, b.inter", "Move"),
        two_item_files=in_folder(
            lambda f: made(f, "a.inter", "a.item", "b.item"), ValueError, "data", "a.item, b.item", "Move"
        ),
        a_folder_named_inter=in_folder(
            lambda f: (made(f) / "x.inter").mkdir(), ValueError, "data/x.inter", "is a folder", "Put the .inter"
        ),
        a_folder_named_item=in_folder(
            lambda f: (made(f, "x.inter") / "x.item").mkdir(), ValueError, "data/x.item", "is a folder", "Put the .item"
        ),
        a_broken_link=in_folder(
            lambda f: (made(f) / "x.inter").symlink_to("nowhere"), ValueError, "data/x.inter", "leads nowhere", "Put"
        ),
        a_link_to_itself=in_folder(
            lambda f: (made(f) / "x.inter").symlink_to("x.inter"), ValueError, "data/x.inter", "leads nowhere", "Put"
        ),
        a_folder_that_links_to_itself=in_folder(loop, FileNotFoundError, "data", "does not exist|is a", "Set data_dir"),
    )  # fmt: skip
    kind = "an .item file that does not fit, or is damaged"
    add(
        kind,
        other_identifiers=bad(TEXT, None, "none of its 6 items", "Use the same", item=ITEMS.replace("\ni", "\nj")),
        no_rows=bad(TEXT, None, "none of its 0 items", "Use the same", item=ITEMS.split("\n")[0]),
        no_identifiers=bad(TEXT, None, "no column 'item_id'", "Name the column", item=ITEMS.replace("item_id", "id")),
        short_row=bad(TEXT, 3, "2 fields", "Separate", item=ITEMS.replace("\t1991.0", "")),
        latin_1=bad(TEXT, 2, "title is not UTF-8", "Convert", item=ITEMS.replace("Title 0", "\xe9").encode("latin-1")),
        empty=bad(TEXT, 1, "is not 'name:type'", "Put a header", item=""),
        gzip=bad(TEXT, 1, "not UTF-8", "unpack", item=gzip.compress(ITEMS.encode())),
    )
    kind = "a number in an .item file"
    for value in ("1995.0", "1995", "9780306406157", "-", "nan", "1e999", "0.10", "007"):
        check = texts(ITEMS.replace("1990.0", value), [{"title": "Title 0", "year": value}])
        found.append((kind, value, check))
    found.append((kind, "nothing", texts(ITEMS.replace("1990.0", ""), [{"title": "Title 0"}])))
    return [Case(*case) for case in found]
