from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.training_data import TrainingData, training_interactions


class Pruning:
    """Something that needs the training interactions."""


def test_the_interactions_of_our_data_modules_are_found_after_setup() -> None:
    data = SyntheticCatalog(num_readers=5, num_books=40, num_topics=4)
    trainer = SimpleNamespace(datamodule=data)
    with pytest.raises(RuntimeError, match="no train_users and train_items"):
        training_interactions(trainer, Pruning(), "")
    data.setup()
    assert isinstance(data, TrainingData)
    users, items = training_interactions(trainer, Pruning(), "")
    assert users is data.train_users and items is data.train_items


def test_any_object_with_the_two_tensors_will_do() -> None:
    users, items = torch.tensor([0, 1]), torch.tensor([3, 2])
    trainer = SimpleNamespace(datamodule=SimpleNamespace(train_users=users, train_items=items))
    assert training_interactions(trainer, Pruning(), "") == (users, items)


@pytest.mark.parametrize(
    "trainer",
    [
        SimpleNamespace(),
        SimpleNamespace(datamodule=None),
        SimpleNamespace(datamodule=SimpleNamespace(train_users=torch.tensor([0]))),
        SimpleNamespace(datamodule=SimpleNamespace(train_items=torch.tensor([0]))),
    ],
)
def test_without_them_the_error_names_who_needs_them_and_the_remedy(trainer: Any) -> None:
    with pytest.raises(
        RuntimeError, match=r"^Pruning needs the training interactions, .* train_items\. Give users=\.$"
    ):
        training_interactions(trainer, Pruning(), "Give users=.")
