"""Measure the time and the memory that ``llmhd prepare`` takes, with a generated dump.

    python benchmarks/prepare.py --millions 10
    python benchmarks/prepare.py --millions 30 --words 10 --reviews_per_user 1
    python benchmarks/prepare.py --source steam --millions 2

The dump has the format of Amazon Reviews 2018 (JSON lines), of the Yelp Open Dataset or of Steam (Python literals). It
is generated in a temporary folder (``--folder`` says where), takes some 300 MB of the disk for each million, and is
removed afterwards. *CPU* is the time of all processes together, which depends less than *seconds* on what else the
machine does, and *us* the microseconds of it for each review. *Peak* is the largest resident memory of the command and
its processes together, sampled five times a second; memory that processes share counts in each of them. *ru_maxrss* is
the largest of a single process, in GiB.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

CHUNK = 100_000
FILES = {
    "amazon": ("Books_5.json.gz", "meta_Books.json.gz"),
    "yelp": ("yelp_academic_dataset_review.json.gz", "yelp_academic_dataset_business.json.gz"),
    "steam": ("steam_reviews.json.gz", "steam_games.json.gz"),
}


def amazon(user: int, item: int, rating: int, day: int, text: str) -> str:
    """Return a review in the format of Amazon Reviews 2018."""
    return (
        f'{{"overall": {rating}.0, "verified": true, "reviewTime": "09 13, 2009", "reviewerID": "A{user:013d}", '
        f'"asin": "{item:010d}", "style": {{"Format:": " Hardcover"}}, "reviewerName": "J. McDonald", '
        f'"reviewText": {text}, "summary": "Heavenly", "unixReviewTime": {1_252_800_000 + 86_400 * day}}}'
    )


def yelp(user: int, item: int, rating: int, day: int, text: str) -> str:
    """Return a review in the format of the Yelp Open Dataset."""
    return (
        f'{{"review_id":"{user:011d}{item:011d}","user_id":"{user:022d}","business_id":"{item:022d}","stars":{rating}.0,'
        f'"useful":0,"funny":0,"cool":0,"text":{text},"date":"20{10 + day // 372:02d}-{1 + day // 31 % 12:02d}-'
        f'{1 + day % 31 % 28:02d} 22:09:11"}}'
    )


def steam(user: int, item: int, rating: int, day: int, text: str) -> str:
    """Return a review in the format of Steam."""
    return (
        f"{{u'username': u'player {user}', u'hours': {rating}.1, u'products': 41, u'product_id': u'{item}', "
        f"u'page_order': 0, u'date': u'20{10 + day // 372:02d}-{1 + day // 31 % 12:02d}-{1 + day % 31 % 28:02d}', "
        f"u'text': u{text}, u'early_access': False, u'page': 1}}"
    )


REVIEWS: dict[str, Callable[[int, int, int, int, str], str]] = {"amazon": amazon, "yelp": yelp, "steam": steam}


def item_of(source: str, item: int) -> str:
    """Return a line of the metadata."""
    if source == "amazon":
        return json.dumps({"category": ["Books"], "title": f"Book {item}", "brand": "B", "asin": f"{item:010d}"})
    if source == "yelp":
        return json.dumps({"business_id": f"{item:022d}", "name": f"Cafe {item}", "city": "Tucson", "state": "AZ"})
    return f"{{u'app_name': u'Game {item}', u'genres': [u'Action'], u'id': u'{item}', u'price': 4.99}}"


def reviews(source: str, count: int, users: int, items: int, words: int) -> Iterator[str]:
    """Walk through generated reviews: of the users and the items, the first ones are much more frequent.

    Args:
        source: The format.
        count: The number of reviews.
        users: The number of users to draw from.
        items: The number of items to draw from.
        words: The mean length of a text.

    Yields:
        The lines of some reviews, with their ends.
    """
    rng = np.random.default_rng(0)
    known = np.array([f"word{number}" for number in range(5000)])
    texts = [json.dumps(" ".join(rng.choice(known, size))) for size in rng.geometric(1 / words, 2000)]
    make = REVIEWS[source]
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        drawn = (
            (users * rng.random(size) ** 4).astype(np.int64),
            (items * rng.random(size) ** 2).astype(np.int64),
            rng.choice(5, size, p=[0.05, 0.05, 0.1, 0.2, 0.6]) + 1,
            rng.integers(3000, size=size),
            rng.integers(len(texts), size=size),
        )
        rows = zip(*(column.tolist() for column in drawn), strict=True)
        yield "".join([make(user, item, rating, day, texts[text]) + "\n" for user, item, rating, day, text in rows])


def generate(folder: Path, source: str, count: int, users: int, words: int) -> tuple[int, int]:
    """Write a dump; return its bytes packed and unpacked."""
    names = FILES[source]
    items = max(1000, count // 25)
    unpacked = 0
    with gzip.open(folder / names[0], "wb", compresslevel=1) as file:
        for lines in reviews(source, count, users, items, words):
            unpacked += len(lines)
            file.write(lines.encode())
    with gzip.open(folder / names[1], "wt", compresslevel=1, encoding="utf-8") as text:
        for item in range(items):
            text.write(item_of(source, item) + "\n")
    return (folder / names[0]).stat().st_size, unpacked


def resident(root: int) -> int:
    """Return the resident memory of a process and of its descendants, in bytes."""
    parents, sizes = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        sizes[int(path.parent.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    family, more = {root}, True
    while more:
        grown = family | {process for process, parent in parents.items() if parent in family}
        more, family = grown != family, grown
    return sum(sizes.get(process, 0) for process in family)


def main() -> None:
    """Generate a dump, prepare it in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=FILES, default="amazon", help="the format")
    parser.add_argument("--millions", type=float, default=10, help="millions of reviews")
    parser.add_argument("--words", type=int, default=80, help="the mean length of a text")
    parser.add_argument("--reviews_per_user", type=int, default=3, help="so many, if the users were equally active")
    parser.add_argument("--folder", help="where the temporary folder is made")
    arguments = parser.parse_args()
    count = int(arguments.millions * 1_000_000)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        raw.mkdir()
        packed, unpacked = generate(raw, arguments.source, count, count // arguments.reviews_per_user, arguments.words)
        command = [sys.executable, "-m", "llmhd_pl", "prepare", arguments.source, str(raw), str(out)]
        start = time.perf_counter()
        process = subprocess.Popen(command)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            raise SystemExit(process.returncode)
        written = sum(path.stat().st_size for path in out.iterdir())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    table = Table(
        "source", "reviews", "GB packed", "unpacked", "seconds", "CPU", "us", "peak GiB", "ru_maxrss", "MB out"
    )
    table.add_row(
        arguments.source,
        f"{count:,}",
        f"{packed / 1e9:.1f}",
        f"{unpacked / 1e9:.1f}",
        f"{seconds:.0f}",
        f"{cpu:.0f}",
        f"{1e6 * cpu / count:.1f}",
        f"{peak / 2**30:.2f}",
        f"{used.ru_maxrss / 2**20:.2f}",
        f"{written / 1e6:.0f}",
    )
    Console().print(table)
    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
