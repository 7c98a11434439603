from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.training_data import TrainingData, known_noise, training_interactions, training_samples


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


def test_columns_of_a_data_module_of_ones_own_may_be_arrays_and_lists() -> None:
    columns = {"train_users": np.array([0, 1], dtype=np.int32), "train_items": [3, 2], "noise_mask": np.array([0, 1])}
    trainer = SimpleNamespace(datamodule=SimpleNamespace(train_labels=[True, False], **columns))
    users, items, labels, noise = training_samples(trainer, Pruning(), {})
    assert users.tolist() == [0, 1] and items.tolist() == [3, 2] and users.dtype == items.dtype == torch.int64
    assert labels is not None and labels.tolist() == [1, 0]
    assert noise is not None and noise.tolist() == [False, True] and noise.dtype == torch.bool
    mask = known_noise(trainer, Pruning())
    assert (~mask).tolist() == [True, False]  # of 0 and 1 as integers it would be -1 and -2


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train_users", ["ada", "bo"], r"train_users must be whole numbers from 0.*train_users\[0\] is .*ada"),
        ("train_items", [1.5, 2.0], "train_items must be whole numbers from 0"),
        ("train_labels", [5, 1], r"train_labels must be 0 or 1.*train_labels\[0\] is .*5"),
        ("noise_mask", [0.0, 0.3], r"noise_mask must be 0 or 1.*noise_mask\[1\] is .*0.3"),
    ],
)
def test_columns_that_are_something_else_are_named(name: str, values: Any, message: str) -> None:
    columns = {"train_users": [0, 1], "train_items": [3, 2]} | {name: values}
    with pytest.raises(TypeError, match=message):
        training_samples(SimpleNamespace(datamodule=SimpleNamespace(**columns)), Pruning(), {})
