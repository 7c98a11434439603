import torch
from hypothesis import given
from hypothesis import strategies as st

from llmhd_pl.items_by_user import ItemsByUser, of_users

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=30)


@given(PAIRS)
def test_it_is_the_dictionary_of_a_plain_loop(pairs: list[tuple[int, int]]) -> None:
    expected: dict[int, list[int]] = {}
    for user, item in pairs:
        expected.setdefault(user, []).append(item)
    users, items = (torch.tensor([pair[column] for pair in pairs], dtype=torch.int64) for column in (0, 1))
    found = ItemsByUser(users, items)
    assert dict(found) == expected and len(found) == len(expected) and list(found) == sorted(expected)
    assert all((user in found) == (user in expected) for user in range(-1, 9))
    assert found.get(100, []) == []


@given(st.lists(st.integers(0, 9)), st.sets(st.integers(0, 12)))
def test_of_users_is_isin(users: list[int], chosen: set[int]) -> None:
    found = of_users(torch.tensor(users, dtype=torch.int64), chosen)
    assert found.tolist() == [user in chosen for user in users]
