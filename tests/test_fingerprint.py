"""A checkpoint knows the users, items and interactions that its numbers stand for."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from llmhd_pl.backbones import MF, LightGCN
from llmhd_pl.datamodules import InteractionDataModule
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.fingerprint import check_data, digest_of


class Shop(InteractionDataModule):
    """Nine users, each with six of the items; two of them are held out by the seed."""

    def __init__(self, users: str = "abcdefghi", items: int = 12, **arguments: Any) -> None:
        super().__init__(batch_size=8, **arguments)
        self.users, self.items = users, items

    def load(self) -> Interactions:
        pairs = torch.tensor([(user, (user + step) % 12) for user in range(len(self.users)) for step in range(6)])
        shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(self.seed))
        place = shuffled.repeat(len(self.users))
        return Interactions(
            "shop", len(self.users), self.items, *(pairs[part] for part in (place < 4, place == 4, place == 5)),
            user_names=list(self.users), item_names=[f"i{item}" for item in range(self.items)],
        )  # fmt: skip


def trainer(folder: Path, **more: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet | more)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(MF(9, 12, 4, ks=[3]), datamodule=Shop(noise_ratio=0.2))
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


USES = ["validate", "test", "predict", "fit"]


def use(name: str, folder: Path, data: Shop, path: Path, loaded: bool) -> None:
    if loaded:
        model, arguments = MF.load_from_checkpoint(path), {}
    else:
        model, arguments = MF(len(data.users), data.items, 4, ks=[3]), {"ckpt_path": path}
    getattr(trainer(folder, max_epochs=2), name)(model, datamodule=data, **arguments)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", USES)
def test_the_same_data_is_taken(tmp_path: Path, checkpoint: Path, name: str, loaded: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*interactions are not those|.*does not say")
        use(name, tmp_path, Shop(noise_ratio=0.2), checkpoint, loaded)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"items": 13}, "items: 12 in the checkpoint, 13 in the data"),
        ({"users": "abcdefghij"}, "users: 9 in the checkpoint, 10 in the data"),
        ({"users": "bacdefghi"}, "users: 9 in both, but not the same ones"),
    ],
)
def test_other_numbers_are_refused(
    tmp_path: Path, checkpoint: Path, name: str, loaded: bool, other: dict[str, Any], message: str
) -> None:
    """One new item gives this error, not torch's about sizes; two users whose names are swapped give it, too."""
    with pytest.raises(ValueError, match=rf"belongs to other data \({message}.*rows would be taken.*or train anew"):
        use(name, tmp_path, Shop(**({"noise_ratio": 0.2} | other)), checkpoint, loaded)


def test_a_graph_model_that_was_loaded_is_refused_in_the_same_words(tmp_path: Path) -> None:
    """Not in those about sizes that were given: nobody gave any."""
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(LightGCN(9, 12, 4, ks=[3]), datamodule=Shop())
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    model = LightGCN.load_from_checkpoint(tmp_path / "a.ckpt", strict=False)
    with pytest.raises(ValueError, match=r"belongs to other data \(users: 9 in the checkpoint, 8 in the data"):
        trainer(tmp_path).test(model, datamodule=Shop(users="abcdefgh"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"noise_ratio": 0.2, "seed": 3}, "train interactions: 43 in both, but not the same ones; .*test interactions"),
        ({"noise_ratio": 0.0}, "train interactions: 43 in the checkpoint, 36 in the data; added noise: 7 in the"),
    ],
)
def test_another_split_or_noise_is_refused_where_it_would_be_tested_with(
    tmp_path: Path, checkpoint: Path, other: dict[str, Any], message: str
) -> None:
    for name in ("validate", "test"):
        for loaded in (False, True):
            with pytest.raises(ValueError, match=rf"trained on \({message}.*trained on.*--seed_everything"):
                use(name, tmp_path, Shop(**other), checkpoint, loaded)
    with pytest.raises(ValueError, match=message):
        use("fit", tmp_path, Shop(**other), checkpoint, loaded=False)
    use("fit", tmp_path, Shop(**other), checkpoint, loaded=True)  # a warm start may have new interactions
    with pytest.warns(UserWarning, match=message):
        use("predict", tmp_path, Shop(**other), checkpoint, loaded=False)


def test_after_a_warm_start_the_new_data_counts(tmp_path: Path, checkpoint: Path) -> None:
    model, data = MF.load_from_checkpoint(checkpoint), Shop(seed=3)
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(model, datamodule=data)
    fitting.test(model, datamodule=data, verbose=False)
    fitting.save_checkpoint(tmp_path / "b.ckpt")
    use("test", tmp_path, data, tmp_path / "b.ckpt", loaded=False)


def test_a_checkpoint_without_a_fingerprint_is_taken_with_a_warning(tmp_path: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint)
    del content["data_fingerprint"]
    torch.save(content, checkpoint)
    with pytest.warns(UserWarning, match="does not say what data it was trained on"):
        use("test", tmp_path, Shop(noise_ratio=0.2), checkpoint, loaded=False)


def test_a_resumed_fit_keeps_the_learning_rate_that_it_is_given(tmp_path: Path, checkpoint: Path) -> None:
    model = MF(9, 12, 4, learning_rate=0.5, ks=[3])
    fitting = trainer(tmp_path, max_epochs=2)
    fitting.fit(model, datamodule=Shop(noise_ratio=0.2), ckpt_path=checkpoint)
    assert fitting.optimizers[0].param_groups[0]["lr"] == 0.5


def test_the_digest_is_of_values_and_their_order() -> None:
    values = torch.arange(6)
    assert digest_of(values) == digest_of(values.clone()) == digest_of(torch.arange(12)[:6])
    assert len({digest_of(values), digest_of(values.flip(0)), digest_of(values[:5]), digest_of(values, values)}) == 4
    empty = {name: [0, ""] for name in ("users", "items", "train", "noise", "valid", "test")}
    check_data(empty, empty, "resume")
