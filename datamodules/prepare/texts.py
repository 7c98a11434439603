"""The text of an item, made of what its owner publishes about it."""

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

Texts = Callable[[dict[Any, Any]], dict[str, str]]
"""Makes the text fields of an item, without empty ones, from the fields of its line."""

_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")
_PRICE = re.compile(r"(from )?\$?\d[\d,]*(\.\d+)?( - \$?\d[\d,]*(\.\d+)?)?")
_DEAREST = 1e9
"""Dollars that nothing costs; NaN is not below it."""
_AUTHOR = re.compile(r"Visit Amazon's (.+) Page")


def amazon_texts(item: dict[Any, Any]) -> dict[str, str]:
    """Return the text of a product of Amazon: title, author or brand, categories, description and price.

    Args:
        item: A line of the metadata of 2014, 2018 or 2023.
    """
    title = _text(item.get("title"))
    if "getTime" in title:  # 2018: a script of the page that was crawled
        title = ""
    author = item.get("author")  # 2023
    if isinstance(author, dict):
        author = author.get("name")
    author = _text(author)
    # 2018: the brand of a book is the link to its author's page, others begin with a line "by".
    brand = item.get("brand")
    brand = _text(brand.removeprefix("by\n") if isinstance(brand, str) else None) or _text(item.get("store"))
    if page := _AUTHOR.fullmatch(brand):
        author, brand = author or page[1], ""
    categories = []
    for category in _flat(item.get("categories") or item.get("category")):
        if "</span>" in category:  # 2018: from here on they are features
            break
        categories.append(category)
    return _filled(
        title=title,
        author=author,
        brand="" if author else brand,
        categories=_joined(categories),
        description=_text(" ".join(_flat(item.get("description")))),
        price=_dollars(item.get("price"), only_prices=True),
    )


def yelp_texts(item: dict[Any, Any]) -> dict[str, str]:
    """Return the text of a business of Yelp: name, city, state and categories.

    Args:
        item: A line of ``yelp_academic_dataset_business.json``.
    """
    return _filled(
        title=_text(item.get("name")),
        city=_text(item.get("city")),
        state=_text(item.get("state")),
        categories=_joined(_flat(item.get("categories"))),
    )


def steam_texts(item: dict[Any, Any]) -> dict[str, str]:
    """Return the text of a game of Steam: title, genres, tags, specs, developer, publisher and price.

    Args:
        item: A line of ``steam_games.json.gz``.
    """
    return _filled(
        title=_text(item.get("title")) or _text(item.get("app_name")),
        genres=_joined(_flat(item.get("genres"))),
        tags=_joined(_flat(item.get("tags"))),
        specs=_joined(_flat(item.get("specs"))),
        developer=_text(item.get("developer")),
        publisher=_text(item.get("publisher")),
        price=_dollars(item.get("price"), only_prices=False),
    )


def _filled(**fields: str) -> dict[str, str]:
    return {name: text for name, text in fields.items() if text}


def _text(value: object) -> str:
    """Return a text on one line, without the entities and tags of HTML; an empty one for anything but a text."""
    if not isinstance(value, str):
        return ""
    return " ".join(_TAG.sub(" ", html.unescape(value)).split())


def _flat(value: object, depth: int = 2) -> Iterator[str]:
    """Walk through the texts of a list, of a list of lists, or of a text alone; what lies deeper is no text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)) and depth > 0:
        for one in value:
            yield from _flat(one, depth - 1)


def _joined(values: Any) -> str:
    """Return texts with commas between them, each once."""
    return ", ".join(dict.fromkeys(filter(None, map(_text, values))))


def _dollars(value: object, only_prices: bool) -> str:
    """Return a price as text.

    Args:
        value: A number of dollars, or a text.
        only_prices: Whether a text that is no price, such as the style sheet of a page, counts as none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"${value:,.2f}" if 0 <= value < _DEAREST else ""
    text = _text(value)
    return text if not only_prices or _PRICE.fullmatch(text) else ""
