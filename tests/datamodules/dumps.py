"""Small dumps in the exact formats that their owners publish: names, nesting, quoting, escapes and gzip members."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

Review = tuple[str, str, float, int]
"""A user, an item, a rating and a day."""
NAMES = ["Anna O'Neill", "Zoë", "李雷", 'Bob "B" Ray']
SECOND = 1_252_800_000


def packed(lines: Sequence[str | bytes], members: int = 2) -> bytes:
    """Lines packed by gzip in so many members, as files that were joined are."""
    data = [line.encode() if isinstance(line, str) else line for line in lines]
    cuts = [len(data) * part // members for part in range(members + 1)]
    parts = [b"".join(line + b"\n" for line in data[start:end]) for start, end in pairwise(cuts)]
    return b"".join(gzip.compress(part) for part in parts)


def amazon_2014(folder: Path, reviews: Sequence[Review], name: str = "reviews_Books_5.json.gz") -> Path:
    """Reviews in JSON, metadata in Python literals with nested categories."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "reviewerID": user,
                "asin": item,
                "reviewerName": NAMES[row % 4],
                "helpful": [2, 3],
                "reviewText": 'He said "fine", caf\u00e9 \\ tab\t, {"asin": "0000000000"}',
                "overall": rating,
                "summary": "Heavenly",
                "unixReviewTime": SECOND + 86_400 * day,
                "reviewTime": "09 13, 2009",
            }
        )
        for row, (user, item, rating, day) in enumerate(reviews)
    ]
    (folder / name).write_bytes(packed(lines))
    items = sorted({item for _, item, _, _ in reviews})
    meta = [
        {
            "asin": item,
            "salesRank": {"Books": 6334800},
            "imUrl": "http://ecx.images-amazon.com/images/I/51.jpg",
            "categories": [["Books", f"Shelf {place % 3}"], ["Books", "Classics"]],
            "title": f"It's &quot;Book&quot; {place}",
            "brand": "",
            "price": 3.17 + place,
            "related": {"also_bought": items[:3], "buy_after_viewing": items[:2]},
            "description": 'A caf\u00e9 "story"\\ about <b>love</b>.',
        }
        for place, item in enumerate(items)
    ]
    meta.append({"asin": "B00UNKNOWN", "title": "Nobody reviewed it", "categories": [["Books"]]})
    del meta[0]["title"], meta[0]["price"]
    (folder / "meta_Books.json.gz").write_bytes(packed([repr(line) for line in meta]))
    return folder


def amazon_2018(folder: Path, reviews: Sequence[Review]) -> Path:
    """JSON lines, with the remains of pages that the owner's crawler left in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "overall": rating,
                "vote": "2",
                "verified": True,
                "reviewTime": "09 13, 2009",
                "reviewerID": user,
                "asin": item,
                "style": {"Format:": " Hardcover"},
                "reviewerName": NAMES[row % 4],
                "reviewText": "Great\nPlease also see https://a.b/c",
                "summary": "Heavenly",
                "unixReviewTime": SECOND + 86_400 * day,
            }
        )
        for row, (user, item, rating, day) in enumerate(reviews)
    ]
    (folder / "Toys_and_Games_5.json.gz").write_bytes(packed(lines, members=3))
    meta = [
        {
            "category": ["Toys & Games", "Puzzles &amp; Games", "</span></span></span>", "a feature"],
            "tech1": "",
            "description": ["Three puzzles.", "", "For <i>everybody</i>"],
            "fit": "",
            "title": f"Puzzle {place}",
            "also_buy": [],
            "tech2": "",
            "brand": "Visit Amazon's Paulo Coelho Page" if place % 2 else "Dr. Seuss",
            "feature": ["Three giant floor puzzles"],
            "rank": [">#2,230,717 in Toys & Games (See Top 100 in Toys & Games)"],
            "also_view": [],
            "main_cat": "Toys & Games",
            "similar_item": "",
            "date": "",
            "price": "$12.99",
            "asin": item,
            "imageURL": [],
            "imageURLHighRes": [],
        }
        for place, item in enumerate(sorted({item for _, item, _, _ in reviews}))
    ]
    meta[0] |= {"title": "var aPageStart = (new Date()).getTime();", "price": ".a-box-inner{background-color:#fff}"}
    meta.append(meta[1] | {"title": "Another title"})  # some products have several lines
    (folder / "meta_Toys_and_Games.json.gz").write_bytes(packed([json.dumps(line) for line in meta]))
    return folder


def amazon_2023(folder: Path, reviews: Sequence[Review]) -> Path:
    """JSON lines with milliseconds, and prices that are numbers, texts or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "rating": rating,
                "title": "Such a lovely scent \U0001f338",
                "text": "This spray is really nice.",
                "images": [{"small_image_url": "https://m.media-amazon.com/a.jpg", "attachment_type": "IMAGE"}],
                "asin": f"V{item}",
                "parent_asin": item,
                "user_id": user,
                "timestamp": 1_588_687_728_923 + 86_400_000 * day,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
        )
        for user, item, rating, day in reviews
    ]
    (folder / "Books.jsonl.gz").write_bytes(packed(lines))
    prices: list[Any] = [12.5, None, "\u2014", "from 4.99"]
    meta = [
        {
            "main_category": "Books",
            "title": f"Book {place}",
            "subtitle": "Paperback \u2013 2015",
            "author": {"avatar": "https://m.media-amazon.com/a.jpg", "name": "Kathleen Duey", "about": ["Kathleen"]}
            if place % 2
            else None,
            "average_rating": 4.5,
            "rating_number": 12,
            "features": [],
            "description": ["A tale.", "It ends well."],
            "price": prices[place % 4],
            "images": [],
            "videos": [],
            "store": "Jane Roe (Author)",
            "categories": ["Books", "Literature & Fiction"],
            "details": {"Publisher": "X (2015)", "ISBN 10": "1234567890"},
            "parent_asin": item,
            "bought_together": None,
        }
        for place, item in enumerate(sorted({item for _, item, _, _ in reviews}))
    ]
    (folder / "meta_Books.jsonl.gz").write_bytes(packed([json.dumps(line) for line in meta]))
    return folder


def yelp_lines(reviews: Sequence[Review]) -> dict[str, bytes]:
    """The two files: stars as numbers with a point, dates as texts, categories as one text or null."""
    lines = [
        json.dumps(
            {
                "review_id": f"KU_O5udG6zpxOg-VcAEo{row:02d}",
                "user_id": user,
                "business_id": item,
                "stars": rating,
                "useful": 0,
                "funny": 0,
                "cool": 0,
                "text": 'If you decide to eat here, "just" be aware\n\nit is going to take 2 hours.',
                "date": f"2018-07-{1 + day:02d} 22:{row % 60:02d}:11",
            }
        )
        for row, (user, item, rating, day) in enumerate(reviews)
    ]
    businesses = [
        json.dumps(
            {
                "business_id": item,
                "name": f"St Mary's Caf\u00e9 {place}",
                "address": "4734 Lebanon Church Rd",
                "city": "Tucson",
                "state": "AZ",
                "postal_code": "85711",
                "latitude": 32.2,
                "longitude": -110.9,
                "stars": 3.5,
                "review_count": 22,
                "is_open": 0,
                "attributes": {"BusinessParking": "{'garage': False, 'street': True}"},
                "categories": "Restaurants, Coffee & Tea, Mexican" if place % 3 else None,
                "hours": None,
            }
        )
        for place, item in enumerate(sorted({item for _, item, _, _ in reviews}))
    ]
    return {
        "yelp_academic_dataset_business.json": ("\n".join(businesses) + "\n").encode(),
        "yelp_academic_dataset_checkin.json": b'{"business_id":"a","date":"2020-03-13 21:10:56"}\n',
        "yelp_academic_dataset_review.json": ("\n".join(lines) + "\n").encode(),
    }


def yelp(folder: Path, reviews: Sequence[Review]) -> Path:
    """The files as they are when the archive is unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in yelp_lines(reviews).items():
        (folder / name).write_bytes(data)
    return folder


def yelp_tar(folder: Path, reviews: Sequence[Review], name: str = "yelp_dataset.tar") -> Path:
    """The archive as it is published, packed by gzip whatever its name, with what macOS adds to archives."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member, data in {"Dataset_User_Agreement.pdf": b"%PDF", **yelp_lines(reviews)}.items():
            for entry_name, content in ((f"./._{member}", b"\x00\x05\x16\x07"), (f"./{member}", data)):
                entry = tarfile.TarInfo(entry_name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    data = stream.getvalue()
    (folder / name).write_bytes(data if name.endswith(".tar") and "plain" in name else gzip.compress(data))
    return folder


def python2(value: Any) -> str:
    """A value as Python 2 prints it: every text is ``u'...'`` in ASCII."""
    if isinstance(value, str):
        return "u" + ascii(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(python2, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python2(key)}: {python2(one)}" for key, one in value.items()) + "}"
    return repr(value)


def steam(folder: Path, reviews: Sequence[Review]) -> Path:
    """Python literals with u'' strings; a few reviews have a user_id, and some games no id."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row, (user, item, _, day) in enumerate(reviews):
        line: dict[str, Any] = {"username": user, "hours": 0.1 + row, "products": 41, "product_id": item}
        line |= {"page_order": row % 10, "date": f"2017-12-{1 + day:02d}", "text": 'It\'s "ok" \u2665\n\\o/'}
        line |= {"early_access": False, "page": 1}
        if row % 3 == 0:
            line |= {"user_id": f"7656119{row:010d}", "found_funny": 2, "compensation": "Product received for free"}
        lines.append(python2(line))
    (folder / "steam_reviews.json.gz").write_bytes(packed(lines))
    games = [
        {
            "publisher": "Kotoshiro",
            "genres": ["Action", "Animation &amp; Modeling"],
            "app_name": f"Lost Kitty\u2122 {place}",
            "title": f"Lost Kitty\u2122 {place}",
            "url": f"http://store.steampowered.com/app/{item}/Lost/",
            "release_date": "2018-01-04",
            "tags": ["Strategy", "Action"],
            "discount_price": 4.49,
            "reviews_url": f"http://steamcommunity.com/app/{item}/reviews/",
            "specs": ["Single-player"],
            "price": 4.99 if place % 2 else "Free To Play",
            "early_access": False,
            "id": item,
            "developer": "Kotoshiro",
        }
        for place, item in enumerate(sorted({item for _, item, _, _ in reviews}))
    ]
    del games[1]["title"]
    lines = [python2(game) for game in games]
    (folder / "steam_games.json.gz").write_bytes(packed(lines))
    return folder
