from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch_geometric.data import HeteroData

from llmhd_pl import LLMHD, LexicalScorer, LightGCN
from llmhd_pl.datamodules import HeteroGraphData

# User 0 has items 0, 1, 2, 3 and 1 again; user 1 has 2 and 4; user 2 has none; item 5 is unknown to all.
EDGES = [(0, 0), (0, 1), (1, 4), (0, 2), (0, 3), (1, 2), (0, 1)]
RATING, TIME = [5, 1, 4, 4, 3, 5, 4], [10, 60, 5, 20, 50, 30, 40]
KIND = ("user", "rates", "item")


def graph(**attributes: Any) -> HeteroData:
    made = HeteroData()
    made["user"].num_nodes, made["item"].num_nodes = 3, 6
    made[KIND].edge_index = torch.tensor(EDGES).T
    made["item", "rated_by", "user"].edge_index = made[KIND].edge_index.flip(0)
    made["item", "like", "item"].edge_index = torch.tensor([[0], [1]])
    for name, value in attributes.items():
        made[KIND][name] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return made


def splits(module: HeteroGraphData) -> list[list[list[int]]]:
    data = module.interactions
    return [part.tolist() for part in (data.train, data.valid, data.test)]


def test_edges_are_interactions() -> None:
    data = HeteroGraphData(graph(), split_ratios=(1.0, 0.0, 0.0))
    assert data.edge_type == KIND and (data.num_users, data.num_items) == (3, 6)
    assert splits(data) == [[[0, 0], [0, 1], [0, 2], [0, 3], [1, 2], [1, 4]], [], []]
    assert data.interactions.items == [] and data.interactions.low_rated is None


def test_a_temporal_split_by_hand() -> None:
    """User 0's times are 0: 10, 2: 20, 3: 50 and 1: 60 (the later of two); user 1's are 4: 5 and 2: 30."""
    data = HeteroGraphData(graph(time=TIME), split="temporal", split_ratios=(0.5, 0.25, 0.25))
    assert splits(data) == [[[0, 0], [0, 2], [1, 4]], [[0, 3]], [[0, 1], [1, 2]]]


def test_ratings_below_the_threshold_are_no_positives() -> None:
    data = HeteroGraphData(graph(rating=RATING), rating_threshold=4, split_ratios=(1.0, 0.0, 0.0))
    assert splits(data)[0] == [[0, 0], [0, 1], [0, 2], [1, 2], [1, 4]]
    assert data.interactions.low_rated is not None and data.interactions.low_rated.tolist() == [[0, 1], [0, 3]]


def test_masks_on_the_edges_are_the_split() -> None:
    masks = {"train_mask": [1, 0, 0, 1, 0, 1, 0], "val_mask": [0, 1, 0, 0, 0, 0, 1], "test_mask": [0, 0, 1, 0, 1, 0, 0]}
    data = HeteroGraphData(graph(**{name: torch.tensor(mask).bool() for name, mask in masks.items()}))
    assert splits(data) == [[[0, 0], [0, 2], [1, 2]], [[0, 1]], [[0, 3], [1, 4]]]


@pytest.mark.parametrize(("threshold", "test"), [(None, [[0, 4], [0, 5], [2, 0]]), (4, [[0, 4], [2, 0]])])
def test_edges_to_predict_are_the_test_split(threshold: float | None, test: list[list[int]]) -> None:
    """As in PyG's AmazonBook and MovieLens100K; validation comes out of the other edges."""
    held_out = torch.tensor([(2, 0), (0, 5), (0, 4), (1, 1)]).T
    given = graph(rating=RATING, edge_label_index=held_out, edge_label=[5.0, 2.0, 4.0, 0.0])
    data = HeteroGraphData([given], rating_threshold=threshold, split_ratios=(0.5, 0.25, 0.25))
    train, valid, found = splits(data)
    assert found == test and len(valid) == 2 and len(train) == (4 if threshold is None else 3)
    assert HeteroGraphData(graph(edge_label_index=held_out)).interactions.test.tolist() == sorted(held_out.T.tolist())


def test_texts_of_the_nodes_or_given(tmp_path: Path) -> None:
    titled = graph()
    titled["item"].title = ["Dune", "", "Emma", "Momo", "Ulysses", "Solaris"]
    assert HeteroGraphData(titled).interactions.items[:3] == [{"title": "Dune"}, {}, {"title": "Emma"}]
    texts = [{"author": str(item)} for item in range(6)]
    assert HeteroGraphData(titled, texts=texts).interactions.items == texts
    with pytest.raises(ValueError, match="there are 2 item texts for 6 items"):
        _ = HeteroGraphData(titled, texts=texts[:2]).interactions


@pytest.mark.filterwarnings("ignore")
def test_a_fit_with_the_judge(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    big = HeteroData()
    big["user"].num_nodes, big["film"].num_nodes = 20, 30
    big["user", "watched", "film"].edge_index = torch.stack(
        [torch.randint(20, (200,), generator=generator), torch.randint(30, (200,), generator=generator)]
    )
    big["film"].title = [f"film {number} of the sea" for number in range(30)]
    data = HeteroGraphData(big, noise_ratio=0.1, batch_size=64)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
        callbacks=[*LLMHD(LexicalScorer(), drop_rate=0.1, ramp_iterations=1, audit=True, graph_patience=1)],
    )  # fmt: skip
    trainer.fit(LightGCN(20, 30, embedding_dim=8), data)
    assert int(data.noise_mask.sum()) == round(0.1 * len(data.interactions.train))
    assert float(trainer.callback_metrics["denoise/dropped"]) > 0


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"edge_index": torch.tensor([[0], [6]])}, {}, r"Edge 0 in the edge_index .*names item 6, but there are 6"),
        ({"edge_index": torch.tensor([[0, 3], [0, 1]])}, {}, r"Edge 1 .*names user 3"),
        ({"edge_index": torch.tensor([[0, -1], [0, 1]])}, {}, r"names user -1"),
        ({"edge_index": torch.tensor([[0.0], [1.0]])}, {}, r"is torch.float32 \[2, 1\]; it must be whole numbers"),
        ({"edge_index": torch.zeros(2, 0, dtype=torch.int64)}, {}, r"no edges .*nothing to learn"),
        ({"edge_label_index": torch.tensor([[7], [0]])}, {}, r"edge_label_index .*names user 7"),
        ({}, {"rating_threshold": 4}, r"attribute 'rating' .*is missing.*Leave out rating_threshold"),
        ({"rating": [1, 2]}, {"rating_threshold": 4}, r"'rating' .*of shape \[2\].*each of the 7 edges"),
        ({"rating": [1.0] * 6 + [float("nan")]}, {"rating_threshold": 4}, r"'rating' of edge 6 .*is nan"),
        ({}, {"split": "temporal"}, r"attribute 'time' .*is missing.*split='random'"),
        ({"train_mask": [True]}, {}, r"'train_mask' .*of shape \[1\].*Repair the mask"),
        ({"rating": RATING}, {"rating_threshold": 6}, "no training interaction"),
    ],
)
def test_what_the_graph_lacks_is_named(change: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = HeteroGraphData(graph(**change), **arguments).interactions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"edge_type": ("user", "sees", "item")},
            r"no edges \('user', 'sees', 'item'\); .*'rates', 'item'\)",
        ),
        ({"split": "sorted"}, "split is 'sorted'"),
        ({"split_ratios": (0.5, 0.2, 0.2)}, "three shares that sum to 1"),
        ({"rating_threshold": float("nan")}, "rating_threshold"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeteroGraphData(graph(), **arguments)


def test_which_edges_are_meant_must_be_clear() -> None:
    several = graph()
    several["user", "owns", "tag"].edge_index = torch.tensor([[0], [0]])
    with pytest.raises(ValueError, match=r"2 kinds of edges .*'owns'.*edge_type="):
        HeteroGraphData(several)
    assert HeteroGraphData(several, edge_type=KIND).num_items == 6
    for nothing in (3, HeteroData, torch.zeros(2, 3)):
        with pytest.raises((TypeError, ValueError), match="must be a torch_geometric"):
            HeteroGraphData(nothing)


def test_nodes_without_a_number_are_counted_by_their_edges() -> None:
    bare = HeteroData()
    bare[KIND].edge_index = torch.tensor(EDGES).T
    bare[KIND].edge_label_index = torch.tensor([[3], [7]])
    data = HeteroGraphData(bare)
    assert (data.num_users, data.num_items) == (4, 8)
