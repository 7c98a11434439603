import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from small_data import Pair, pairs_of
from torch import Tensor, nan, tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data, HeteroData, InMemoryDataset
from torch_geometric.datasets import AmazonBook, MovieLens100K
from torch_geometric.transforms import RandomLinkSplit, ToSparseTensor, ToUndirected

from llmhd_pl import LLMHD, HeteroGraphData, LexicalScorer, LightGCN
from llmhd_pl.cli import main
from llmhd_pl.datamodules import Interactions
from llmhd_pl.datamodules.table import Table, split

RATES = ("user", "rates", "item")
SPLITS = ("train", "valid", "test")
# 4 users, of whom 2 has no edge, and 6 items, of which 5 has none; the edges are out of order on purpose.
EDGES = [(1, 2), (0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (3, 4)]
TIMES = [8, 5, 1, 4, 2, 3, 9, 7]
TEMPORAL: dict[str, list[Pair]] = {
    "train": [(0, 1), (0, 3), (0, 4), (1, 2), (3, 4)], "valid": [(0, 2)], "test": [(0, 0), (1, 1)],
}  # fmt: skip


def index(edges: list[Pair]) -> Tensor:
    return tensor(edges, dtype=torch.int64).reshape(-1, 2).T.contiguous()


def graph(edges: list[Pair] = EDGES, **more: Any) -> HeteroData:
    """A graph with these edges and their attributes."""
    data = HeteroData()
    data["user"].num_nodes = 4
    data["item"].x = torch.zeros(6, 2)
    data[RATES].edge_index = index(edges)
    for name, value in more.items():
        data[RATES][name] = value
    return data


def splits(found: Interactions) -> dict[str, list[Pair]]:
    return {name: pairs_of(getattr(found, name)) for name in SPLITS}


def load(data: Any, **arguments: Any) -> dict[str, list[Pair]]:
    return splits(HeteroGraphData(data, **arguments).interactions)


class Shop(InMemoryDataset):
    """A data set in memory, like PyTorch Geometric's own."""

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        cells = np.random.default_rng(0).permutation(20 * 15)[:180]
        data = HeteroData()
        data["user"].num_nodes, data["book"].num_nodes = 20, 15
        data["book"].title = [f"Book {number} on {'chess' if number % 2 else 'sailing'}" for number in range(15)]
        pairs = tensor(np.stack([cells // 15, cells % 15]))
        data["user", "rates", "book"].edge_index = pairs[:, :140]
        data["user", "rates", "book"].edge_label_index = pairs[:, 140:]
        data["book", "rated_by", "user"].edge_index = pairs[:, :140].flip([0])
        self.data, self.slices = self.collate([data] * copies)


# Splits


def test_a_temporal_split_takes_the_latest_edges_of_each_user() -> None:
    assert load(graph(time=tensor(TIMES)), split="temporal") == TEMPORAL
    ties = [load(graph(time=torch.zeros(8)), split="temporal", seed=seed) for seed in range(5)]
    assert all(other == ties[0] for other in ties)
    assert load(graph(time=tensor(TIMES).bfloat16()), split="temporal") == TEMPORAL  # which NumPy does not have
    floats = tensor(TIMES, dtype=torch.float64)[:, None] / 7
    assert load(graph(when=floats), split="temporal", time_attr="when", seed=3) == TEMPORAL


def test_a_random_split_is_the_one_of_the_atomic_files_whatever_the_order_of_the_edges() -> None:
    rows = np.array(sorted(EDGES), dtype=np.int32)
    parts = split(Table(rows[:, 0], rows[:, 1]), (0.6, 0.2, 0.2), 1)
    expected = {name: [tuple(row) for row in rows[parts == part].tolist()] for part, name in enumerate(SPLITS)}
    assert [len(pairs) for pairs in expected.values()] == [5, 1, 2]
    assert load(graph(), seed=1) == load(graph(EDGES[::-1]), seed=1) == expected
    assert any(load(graph(), seed=seed) != expected for seed in range(2, 6))


def test_users_and_items_keep_the_numbers_of_their_nodes() -> None:
    found = HeteroGraphData(graph()).interactions
    assert (found.num_users, found.num_items, found.user_names, found.item_names) == (4, 6, None, None)
    assert found.low_rated is None and found.items == []


def test_the_masks_are_the_splits_and_an_edge_in_none_is_in_no_split() -> None:
    masks = {
        "train_mask": tensor([1, 1, 1, 0, 0, 0, 0, 1]).bool(),
        "val_mask": tensor([0, 0, 0, 1, 1, 0, 0, 0]).bool(),
        "test_mask": tensor([0, 0, 0, 0, 0, 0, 1, 0]).bool(),
    }
    expected = {"train": [(0, 0), (0, 1), (1, 2), (3, 4)], "valid": [(0, 2), (0, 3)], "test": [(1, 1)]}
    assert load(graph(**masks)) == expected
    assert load(graph(**masks), split="temporal") == expected  # which needs no times, because nothing is to be split
    del masks["val_mask"]
    assert load(graph(**masks)) == expected | {"valid": []}


def test_the_labelled_edges_are_the_test_split_except_those_labelled_0() -> None:
    test = index([(3, 0), (2, 5), (1, 0)])
    found = load(graph(edge_label_index=test, time=tensor(TIMES)), split="temporal")
    # User 0 has 5 edges, of which 5 * 0.2 / (0.6 + 0.2), rounded down, are for validation, and user 1 one of two.
    assert found == {
        "train": [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4)],
        "valid": [(0, 0), (1, 1)],
        "test": [(1, 0), (2, 5), (3, 0)],
    }
    # Half of each user's edges, rounded down, because only the ratio of the first two shares matters.
    halves = load(graph(edge_label_index=test, time=tensor(TIMES)), split="temporal", split_ratios=(0.2, 0.2, 0.6))
    assert halves["valid"] == [(0, 0), (0, 2), (1, 1)]
    for kind in (torch.float32, torch.bfloat16, torch.bool):
        labelled = graph(edge_label_index=test, edge_label=tensor([1, 0, 1]).to(kind))
        expected = {"train": sorted(EDGES), "valid": [], "test": [(1, 0), (3, 0)]}
        assert load(labelled, split_ratios=(1, 0, 0)) == expected


def test_the_last_graph_of_random_link_split_is_trained_and_tested_on() -> None:
    torch.manual_seed(0)
    transform = RandomLinkSplit(num_val=1, num_test=2, edge_types=RATES, neg_sampling_ratio=1.0)
    parts = transform(graph())
    found = load(parts[2])
    store = parts[2][RATES]
    positive = pairs_of(store.edge_label_index.T[store.edge_label == 1])
    assert len(positive) == 2 and found["test"] == sorted(positive)
    assert sorted([*found["train"], *found["valid"], *found["test"]]) == sorted(EDGES)
    with pytest.raises(TypeError, match=r"tuple of 3; one HeteroData .* Of the three graphs of RandomLinkSplit, give"):
        load(parts)
    with pytest.raises(ValueError, match="5 interactions are in both train and test"):
        load(parts[0], split_ratios=(1, 0, 0))


# Ratings


def test_edges_below_the_threshold_are_low_rated() -> None:
    ratings = tensor([5, 1, 2, 3, 4, 5, 3, 1])
    for name, values in (("rating", ratings), ("edge_attr", ratings[:, None].float()), ("edge_label", ratings)):
        data = HeteroGraphData(graph(**{name: values}), rating_attr=name, rating_threshold=3, split_ratios=(1, 0, 0))
        found = data.interactions
        assert splits(found)["train"] == [(0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]
        assert found.low_rated is not None and pairs_of(found.low_rated) == [(0, 0), (0, 1), (3, 4)]


def test_a_rating_is_compared_in_its_own_precision() -> None:
    ratings = torch.full((8,), 3.6)  # as float32, 3.6 is a little less
    assert load(graph(rating=ratings), rating_threshold=3.6, split_ratios=(1, 0, 0))["train"] == sorted(EDGES)
    assert load(graph(rating=ratings * nan), split_ratios=(1, 0, 0))["train"] == sorted(EDGES)  # no threshold, no look
    with pytest.raises(ValueError, match=r"no edge has a 'rating' of 3.5 or more. Lower rating_threshold"):
        load(graph(rating=torch.full((8,), 3)), rating_threshold=3.5)


def test_test_ratings_are_the_edge_labels_and_low_ones_are_noise_to_draw_from() -> None:
    data = graph(
        rating=tensor([5, 1, 5, 5, 5, 5, 5, 5]),
        edge_label_index=index([(3, 0), (2, 5), (1, 0)]), edge_label=tensor([4.0, 3.0, 5.0]),
    )  # fmt: skip
    module = HeteroGraphData(
        data, rating_threshold=4, split_ratios=(1, 0, 0), noise_ratio=0.3, noise_source="low_rating"
    )
    module.setup()
    assert pairs_of(module.interactions.test) == [(1, 0), (3, 0)]
    noise = pairs_of(module.train_users[module.noise_mask], module.train_items[module.noise_mask])
    assert noise == [(0, 0), (2, 5)]  # 0.3 * 7 of the two that are there


def test_sampled_negatives_do_not_pass_for_ratings() -> None:
    ratings = tensor([5, 3, 5, 5, 2, 5, 3, 5])
    for ratio in (1.0, 0.0):
        torch.manual_seed(0)
        transform = RandomLinkSplit(num_val=1, num_test=3, edge_types=RATES, neg_sampling_ratio=ratio)
        last = transform(graph(rating=ratings, edge_label=ratings.clone()))[2]
        if ratio:  # the labels of the three edges are then their ratings plus 1
            with pytest.raises(ValueError, match=r"3 of 6 'edge_label' are 0, .* give it neg_sampling_ratio=0"):
                load(last, rating_threshold=4)
    truth = dict(zip(EDGES, ratings.tolist(), strict=True))
    found = HeteroGraphData(last, rating_threshold=4).interactions
    assert len(found.test) and all(truth[pair] >= 4 for part in splits(found).values() for pair in part)
    assert found.low_rated is not None and all(truth[pair] < 4 for pair in pairs_of(found.low_rated))


def test_masks_and_ratings_together() -> None:
    train = tensor([1, 1, 1, 1, 1, 0, 0, 0]).bool()
    data = graph(rating=tensor([5, 1, 5, 5, 5, 5, 2, 5]), train_mask=train, test_mask=~train)
    found = HeteroGraphData(data, rating_threshold=3).interactions
    assert splits(found) == {"train": [(0, 1), (0, 2), (0, 3), (1, 2)], "valid": [], "test": [(0, 4), (3, 4)]}
    assert found.low_rated is not None and pairs_of(found.low_rated) == [(0, 0), (1, 1)]


def test_of_repeated_edges_one_row_counts_as_in_atomic_files() -> None:
    edges = [(0, 0), (0, 1), (0, 0), (0, 2)]
    times, ratings = tensor([9, 2, 1, 5]), tensor([5, 5, 1, 5])
    last = load(graph(edges, rating=ratings), rating_threshold=3, split_ratios=(1, 0, 0))
    assert last["train"] == [(0, 1), (0, 2)]  # the last row of (0, 0) has a low rating
    latest = load(graph(edges, rating=ratings, time=times), rating_threshold=3, split="temporal")
    assert latest == {"train": [(0, 1)], "valid": [(0, 2)], "test": [(0, 0)]}


# Edge types


def test_the_reverse_of_an_edge_type_does_not_count() -> None:
    expected = load(graph())
    assert load(ToUndirected()(graph())) == expected
    both = graph()
    both["item", "rated_by", "user"].edge_index = index(EDGES).flip([0])
    both["user", "follows", "user"].edge_index = index([(0, 1)])
    assert load(both) == expected
    first = HeteroData()  # the reverse comes first
    first["user"].num_nodes, first["item"].num_nodes = 4, 6
    first["item", "rev_rates", "user"].edge_index = index(EDGES).flip([0])
    first[RATES].edge_index = index(EDGES)
    assert load(first) == expected


def test_several_edge_types_have_to_be_chosen_from() -> None:
    data = graph()
    data["user", "buys", "item"].edge_index = index([(2, 5)])
    data["item", "liked_by", "user"].edge_index = index([(5, 3)])
    listed = r"\('user', 'rates', 'item'\), \('user', 'buys', 'item'\), \('item', 'liked_by', 'user'\)"
    with pytest.raises(ValueError, match=f"Several edge types .*: {listed}. Set edge_type"):
        load(data)
    chosen = HeteroGraphData(data, edge_type=("user", "buys", "item")).interactions
    assert splits(chosen)["train"] == [(2, 5)] and "('user', 'buys', 'item')" in chosen.name
    for wrong in (("user", "sells", "item"), ("user", "item"), "rates"):
        with pytest.raises(ValueError, match=f"no edge type .*. Set edge_type to one of .* {listed}"):
            load(data, edge_type=wrong)
    with pytest.raises(ValueError, match=r"no edge type between two different types .* \(its edge types: none\)"):
        load(HeteroData())


def test_the_graph_is_only_read() -> None:
    data = graph(edge_label_index=EdgeIndex(index([(2, 5)]), sparse_size=(4, 6)), rating=tensor([3] * 8))
    before = copy.deepcopy(data)
    assert load(data, rating_threshold=None)["test"] == [(2, 5)]
    assert data.to_dict().keys() == before.to_dict().keys()
    assert all(torch.equal(data[RATES][name], before[RATES][name]) for name in before[RATES])


# Texts


def test_texts_are_given_or_found_in_the_graph() -> None:
    data = graph()
    data["item"].title = ["Compost", "Mulch", None, "\ud83d", "", "Chess"]
    data["item"].shelf = np.array(["a", "b", "c", "d", "e", "f"])
    data["item"].genres = ["one", "two"]  # not one for each item
    data["item"].year = torch.arange(6)
    found = HeteroGraphData(data).interactions.items
    assert found[0] == {"title": "Compost", "shelf": "a"} and found[2] == {"shelf": "c"}
    assert found[3] == {"title": "\ufffd", "shelf": "d"} and found[4] == {"shelf": "e"}
    texts = ["Compost", {"title": "Mulch", "year": 1995, "blurb": None}, {}, "", {"title": "Comets", "year": nan}, "x"]
    assert HeteroGraphData(data, texts=texts).interactions.items == [
        {"text": "Compost"}, {"title": "Mulch", "year": "1995"}, {}, {}, {"title": "Comets"}, {"text": "x"},
    ]  # fmt: skip
    assert HeteroGraphData(data, texts=["", {}, {"title": None}, "", "", ""]).interactions.items == []  # none has text


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "There are 1 texts for 6 nodes of type 'item'. Give one for each"),
        (["a", "b", 7, "d", "e", "f"], "The text of item 2 is a int; give a string or a dict"),
        ([{}, {"tags": ["x"]}, {}, {}, {}, {}], "The field 'tags' of the text of item 1 is a list; give a string"),
    ],
)
def test_texts_that_are_none_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(graph(), texts=texts)


# What is refused


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"edge_index": index(EDGES).float()}, {}, r"edge_index is torch.float32 \[2, 8\]; .* torch.int64 \[2, E\]"),
        ({"edge_index": index(EDGES).bool()}, {}, r"edge_index is torch.bool \[2, 8\]"),
        ({"edge_index": index(EDGES).T}, {}, r"edge_index is torch.int64 \[8, 2\]; .* the users above the items"),
        ({"edge_index": EDGES}, {}, "edge_index is a list"),
        ({"edge_index": index([])}, {}, "edge_index is empty. Add the interactions"),
        ({"edge_index": index([(0, 0), (4, 1)])}, {}, "edge 1 of edge_index names user 4, .* numbered 0 to 3. Correct"),
        ({"edge_index": index([(0, 0), (1, -1)])}, {}, "edge 1 of edge_index names item -1, .* 0 to 5. Correct"),
        ({"edge_label_index": index([(0, 6)])}, {}, "edge 0 of edge_label_index names item 6"),
        ({"edge_label_index": index([])}, {}, "edge_label_index is empty. .* or remove the attribute"),
        ({"edge_label_index": index([(0, 0)])}, {}, "1 interactions are in both .* and test"),
        ({"edge_label_index": index([(2, 0)]), "edge_label": tensor([0])}, {}, "no edge of edge_label_index counts"),
        ({}, {"rating_threshold": 3}, "no 'rating', only edge_index. Set rating_attr, or leave out rating_threshold"),
        ({}, {"split": "temporal"}, "there is no 'time', only edge_index. Set time_attr, or split at random"),
        ({"rating": torch.ones(7)}, {"rating_threshold": 3}, r"'rating' is torch.float32 \[7\]; one .* 8 edges"),
        ({"rating": torch.ones(8, 2)}, {"rating_threshold": 3}, r"'rating' is torch.float32 \[8, 2\]"),
        ({"rating": [1] * 8}, {"rating_threshold": 3}, "'rating' is a list"),
        (
            {"rating": tensor([5, 5, nan, 5, 5, 5, 5, 5])},
            {"rating_threshold": 3},
            r"'rating' of edge 2 \(user 0, item 1\) is nan, not a finite number. Correct it or remove the edge",
        ),
        ({"time": tensor(TIMES) / 0}, {"split": "temporal"}, r"'time' of edge 0 \(user 1, item 2\) is inf"),
        (
            {"rating": torch.ones(8), "edge_label_index": index([(2, 0)])},
            {"rating_threshold": 1},
            "no 'edge_label', only .* Add the ratings of edge_label_index",
        ),
        (
            {"edge_label": torch.ones(8), "edge_label_index": index([(2, 0)])},
            {"rating_threshold": 1, "rating_attr": "edge_label"},
            "'edge_label' rates edge_label_index, not edge_index. Set rating_attr",
        ),
        (
            {"rating": torch.ones(8), "edge_label_index": index([(2, 0)]), "edge_label": tensor([1.0])},
            {"rating_threshold": 1.0, "rating_attr": "edge_weight"},
            "no 'edge_weight', only edge_index, rating, edge_label_index, edge_label",
        ),
        ({"val_mask": torch.ones(8).bool()}, {}, "there is a val_mask, but no train_mask"),
        ({"train_mask": torch.ones(8)}, {}, r"train_mask is torch.float32 \[8\]; it must be torch.bool \[8\]"),
        ({"train_mask": torch.ones(7).bool()}, {}, r"train_mask is torch.bool \[7\]"),
        ({"train_mask": torch.zeros(8).bool()}, {}, "no training interaction"),
        (
            {"train_mask": torch.ones(8).bool(), "test_mask": torch.arange(8) == 3},
            {},
            "edge 3 of edge_index is in train_mask and test_mask. Leave it in one",
        ),
        (
            {"train_mask": torch.ones(8).bool(), "edge_label_index": index([(2, 0)])},
            {},
            "both a train_mask and an edge_label_index. Remove one",
        ),
    ],
)
def test_malformed_edges_are_refused(changes: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^HeteroData, edge type \('user', 'rates', 'item'\): .*" + message):
        load(graph(**changes), **arguments)


def test_the_same_pair_in_two_masks_is_refused() -> None:
    train = tensor([True, True, False])
    with pytest.raises(ValueError, match="both train and test, for example user 0 with item 1"):
        load(graph([(0, 0), (0, 1), (0, 1)], train_mask=train, test_mask=~train))


def test_the_numbers_of_nodes_must_be_known() -> None:
    data = graph()
    del data["item"].x
    with pytest.raises(ValueError, match=r"the number of 'item' nodes is unknown. Set data\['item'\].num_nodes"):
        load(data)


def test_without_edge_index_the_attributes_are_named() -> None:
    with pytest.raises(ValueError, match=r"there is no edge_index, only adj_t. Set it, .* ToSparseTensor come later"):
        load(ToSparseTensor(layout=torch.sparse_csr)(graph()))


@pytest.mark.parametrize("data", [Data(edge_index=index(EDGES)), "data/shop", None, {"a": 1}, index(EDGES)])
def test_what_is_no_graph_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match=f"data is a {type(data).__name__} and has no edge types; a HeteroData"):
        load(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "given"}, "split is 'given'; it must be 'random' or 'temporal'"),
        ({"split_ratios": (0.5, 0.5)}, "split_ratios is .* three shares"),
        ({"rating_threshold": nan}, "rating_threshold is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeteroGraphData(graph(), **arguments)


# Data sets, training, and the command line


def test_a_data_set_holds_one_graph() -> None:
    found = HeteroGraphData(Shop()).interactions
    assert found.name == "Shop, edge type ('user', 'rates', 'book')" and found.items[1]["title"] == "Book 1 on chess"
    assert len(found.train) + len(found.valid) == 140 and len(found.test) == 40
    with pytest.raises(ValueError, match=r"Shop holds 2 graphs; give one of them, such as data\[0\]"):
        load(Shop(copies=2))


def write(folder: Path, **files: str) -> None:
    """Write the raw files of a data set, so that nothing is downloaded; "_" in a name stands for the dot."""
    (folder / "raw").mkdir()
    for name, text in files.items():
        (folder / "raw" / ".".join(name.rsplit("_", 1))).write_text(text)


def test_the_amazon_book_of_pytorch_geometric_is_read(tmp_path: Path) -> None:
    write(
        tmp_path, user_list_txt="org_id remap_id\na 0\nb 1\nc 2\n", item_list_txt="org_id remap_id\nx 0\ny 1\nz 2\n",
        train_txt="0 2 0\n1 1\n", test_txt="0 1\n1 \n",
    )  # fmt: skip
    found = HeteroGraphData(AmazonBook(str(tmp_path)), split_ratios=(1, 0, 0)).interactions
    assert found.name == "AmazonBook, edge type ('user', 'rates', 'book')"
    assert (found.num_users, found.num_items, found.low_rated) == (3, 3, None)
    assert splits(found) == {"train": [(0, 0), (0, 2), (1, 1)], "valid": [], "test": [(0, 1)]}


def test_the_movie_lens_of_pytorch_geometric_is_read_with_its_ratings(tmp_path: Path) -> None:
    films = "".join(f"{film}|Film|01-Jan-1995||http|{'|'.join('0' * 19)}\n" for film in (1, 2, 3, 4))
    write(
        tmp_path, u_item=films, u_user="1|24|M|writer|85711\n2|53|F|other|94043\n",
        u1_base="1\t1\t5\t30\n1\t2\t4\t10\n1\t3\t4\t20\n2\t1\t2\t5\n", u1_test="1\t4\t3\t9\n2\t2\t5\t9\n",
    )  # fmt: skip
    data = MovieLens100K(str(tmp_path))
    assert load(data, split_ratios=(1, 0, 0)) == {
        "train": [(0, 0), (0, 1), (0, 2), (1, 0)], "valid": [], "test": [(0, 3), (1, 1)],
    }  # fmt: skip
    found = HeteroGraphData(data, rating_threshold=4, split="temporal").interactions
    assert splits(found) == {"train": [(0, 1), (0, 2)], "valid": [(0, 0)], "test": [(1, 1)]}
    assert found.low_rated is not None and sorted(pairs_of(found.low_rated)) == [(0, 3), (1, 0)]


def test_a_model_is_trained_and_tested_with_the_callbacks(tmp_path: Path) -> None:
    data = HeteroGraphData(Shop(), batch_size=32, noise_ratio=0.1)
    data.setup()
    model = LightGCN(data.num_users, data.num_items, embedding_dim=8)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[*LLMHD(LexicalScorer())],
    )  # fmt: skip
    trainer.fit(model, data)
    assert "val/ndcg@10" in trainer.callback_metrics
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    (metrics,) = trainer.test(model, data, verbose=False)
    assert 0 < metrics["test/recall@10"] <= 1


def test_the_command_line_makes_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["llmhd"])
    cli = main([
        "fit", "--data", "HeteroGraphData", "--data.data", f"{__name__}.Shop", "--data.batch_size", "64",
        "--data.edge_type", "[user, rates, book]", "--model", "LightGCN", "--trainer.accelerator", "cpu",
        "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false",
    ])  # fmt: skip
    assert (cli.model.num_users, cli.model.num_items) == (20, 15)
    config = yaml.safe_load(Path("runs/version_0/config.yaml").read_text())
    assert config["data"]["init_args"]["data"]["class_path"].endswith(".Shop")
