"""Preferences that are lists of items: how they are made, revised and read. Nothing is asked."""

from collections.abc import Mapping, Sequence

from llmhd_pl.llm.scorer import Preference


def as_lists(histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
    """Return the list of each user's items as their preference.

    Args:
        histories: The items of each user.

    Returns:
        The items of each user, without repetitions.
    """
    return {user: list(dict.fromkeys(items)) for user, items in histories.items()}


def revised_lists(
    preferences: Mapping[int, Preference],
    disliked: Mapping[int, Sequence[int]],
    liked: Mapping[int, Sequence[int]],
) -> dict[int, Preference]:
    """Remove the disliked items, then add the liked ones.

    Args:
        preferences: The items of each user; not changed.
        disliked: The items to remove; those that are not in the preference are ignored.
        liked: The items to add; those that are already in the preference are ignored.

    Returns:
        The new preferences of the users in ``disliked`` or ``liked`` who had one.

    Raises:
        TypeError: If a preference was made by another scorer.
    """
    revised: dict[int, Preference] = {}
    for user in (user for user in preferences if user in disliked or user in liked):
        removed = set(disliked.get(user, ()))
        kept = [item for item in items_of(preferences, user) if item not in removed]
        revised[user] = list(dict.fromkeys([*kept, *liked.get(user, ())]))
    return revised


def items_of(preferences: Mapping[int, Preference], user: int) -> list[int]:
    """Return the items in a user's preference; none if there is no preference.

    Args:
        preferences: The preference of each user.
        user: The user.

    Raises:
        TypeError: If the preference was made by another scorer.
    """
    items = preferences.get(user, [])
    if isinstance(items, str):
        raise TypeError(f"The preference of user {user} is a text; another scorer made it. Call summarize() again.")
    return items
