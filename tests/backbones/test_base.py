from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from llmhd_pl.backbones import GMF, MF, Backbone, LightGCN, NeuMF
from llmhd_pl.datamodules import SyntheticCatalog
from llmhd_pl.sample_weights import SampleWeights


def quiet_trainer(**arguments: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def tiny_catalog(**arguments: Any) -> SyntheticCatalog:
    return SyntheticCatalog(num_readers=60, num_books=50, num_topics=5, books_per_reader=12, batch_size=64, **arguments)


def one_step(model: MF, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    trainer = quiet_trainer()
    model._trainer = trainer
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model.training_step(batch, 0)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {
        "sample": torch.tensor([7, 3]),
        "user": torch.tensor([0, 1]),
        "positive": torch.tensor([0, 2]),
        "negative": torch.tensor([1, 1]),
    }


def mf_by_hand(objective: str, l2: float) -> MF:
    """Two users (1 and 2), three items (1, -1 and 3), one dimension."""
    model = MF(2, 3, embedding_dim=1, objective=objective, l2=l2)  # type: ignore[arg-type]
    model.embedding.weight.data = torch.tensor([[1.0], [2.0], [1.0], [-1.0], [3.0]])
    return model


def test_training_step_contract_bpr(batch: dict[str, Tensor]) -> None:
    out = one_step(mf_by_hand("bpr", l2=0.0), batch)
    assert out["positive_score"].tolist() == [1, 6] and out["negative_score"].tolist() == [-1, -2]
    expected = torch.nn.functional.softplus(torch.tensor([-2.0, -8.0]))
    torch.testing.assert_close(out["losses"], expected)
    torch.testing.assert_close(out["loss"], expected.mean())
    assert out["loss"].requires_grad
    assert not any(out[name].requires_grad for name in ("losses", "positive_score", "negative_score"))


def test_training_step_contract_bce(batch: dict[str, Tensor]) -> None:
    out = one_step(mf_by_hand("bce", l2=0.0), batch)
    expected = torch.nn.functional.softplus(torch.tensor([[-1.0, -1.0], [-6.0, -2.0]]))
    torch.testing.assert_close(out["losses"], expected)
    torch.testing.assert_close(out["loss"], expected.mean())


def test_l2_is_half_the_squared_norm_of_the_used_embeddings(batch: dict[str, Tensor]) -> None:
    with_l2, without = (one_step(mf_by_hand("bpr", l2), batch)["loss"] for l2 in (0.1, 0.0))
    norms = (1 + 1 + 1) + (4 + 9 + 1)
    assert float((with_l2 - without).detach()) == pytest.approx(0.1 / 2 * norms / 2)


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_weights_multiply_the_losses_and_the_gradient(batch: dict[str, Tensor], objective: str) -> None:
    model = mf_by_hand(objective, l2=0.0)
    seen = []

    def drop_sample_three(batch: dict[str, Tensor], losses: Tensor) -> Tensor:
        seen.append(losses)
        return (batch["sample"] != 3).float().view(-1, *[1] * (losses.dim() - 1)).expand_as(losses)

    def halve(batch: dict[str, Tensor], losses: Tensor) -> Tensor:
        return torch.full_like(losses, 0.5)

    model.attach_denoiser(drop_sample_three)
    model.attach_denoiser(halve)
    model.attach_denoiser(halve)  # the second time has no effect
    out = one_step(model, batch)
    assert torch.equal(model.sample_weights(batch, out["losses"])[0], torch.full_like(out["losses"][0], 0.5))
    torch.testing.assert_close(out["loss"], out["losses"][0].mean())  # (w * l).sum() / w.sum()
    assert not seen[0].requires_grad
    out["loss"].backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert gradient[1] == 0 and gradient[4] == 0  # user 1 and item 2 occur in the dropped sample only
    assert gradient[0] != 0


def test_all_weights_zero_gives_loss_zero_and_no_nan(batch: dict[str, Tensor]) -> None:
    model = mf_by_hand("bpr", l2=0.0)
    model.attach_denoiser(lambda batch, losses: torch.zeros_like(losses))
    loss = one_step(model, batch)["loss"]
    loss.backward()
    assert loss == 0 and model.embedding.weight.grad is not None and (model.embedding.weight.grad == 0).all()


def test_the_mixin_serves_a_foreign_module(batch: dict[str, Tensor]) -> None:
    class Foreign(SampleWeights, LightningModule):
        pass

    first, second = Foreign(), Foreign()
    first.attach_denoiser(lambda batch, losses: 2 * torch.ones_like(losses))
    losses = torch.rand(2, requires_grad=True)
    assert first.sample_weights(batch, losses).tolist() == [2, 2]
    assert second.sample_weights(batch, losses).tolist() == [1, 1]
    assert not first.sample_weights(batch, losses).requires_grad


@pytest.mark.parametrize("arguments", [{"num_users": None}, {"num_items": 0}, {"objective": "mse"}])
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        MF(**({"num_users": 2, "num_items": 3} | arguments))


@pytest.mark.parametrize("backbone", [MF, GMF, NeuMF, LightGCN])
@pytest.mark.parametrize("sizes", [(50, 60), (59, 50), (60, 49), (61, 50)])
def test_sizes_other_than_those_of_the_data_are_refused(backbone: type[Backbone], sizes: tuple[int, int]) -> None:
    """Without that, one table for users and items would take some users for items."""
    name, ours, theirs = ("num_users", sizes[0], 60) if sizes[0] != 60 else ("num_items", sizes[1], 50)
    message = rf"{backbone.__name__} was made with {name}={ours}, .* has {name}={theirs}. Take .* from the data module"
    for use in ("fit", "validate", "test", "predict"):
        with pytest.raises(ValueError, match=message):
            getattr(quiet_trainer(max_epochs=1), use)(backbone(*sizes), tiny_catalog())


def test_sizes_are_not_compared_with_those_of_data_that_does_not_know_them() -> None:
    class Unknown(LightningDataModule):
        num_users = None

        def predict_dataloader(self) -> Any:
            nothing = torch.empty(2, 0, dtype=torch.int64)
            return DataLoader([{"user": torch.arange(3), "seen": nothing}], batch_size=None)  # type: ignore[arg-type]

    assert quiet_trainer().predict(MF(3, 30), Unknown())


@pytest.mark.parametrize("backbone", [MF, LightGCN])
@pytest.mark.parametrize("objective", ["bpr", "bce"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_backbone_learns(backbone: type[MF], objective: Any, precision: Any) -> None:
    torch.manual_seed(0)
    data = tiny_catalog()
    model = backbone(data.num_users, data.num_items, embedding_dim=16, objective=objective, learning_rate=0.02)
    trainer = quiet_trainer(max_epochs=12, precision=precision, num_sanity_val_steps=0)
    trainer.fit(model, data)
    learned = float(trainer.callback_metrics["val/ndcg@10"])
    untrained = backbone(data.num_users, data.num_items, embedding_dim=16)
    (before,) = trainer.validate(untrained, data, verbose=False)
    assert learned > 1.5 * before["val/ndcg@10"]


def test_validation_masks_train_and_test_masks_train_and_valid() -> None:
    """The model prefers what was seen: without masks, its rankings would start with nothing but seen items."""
    data = tiny_catalog()
    data.setup()
    interactions = data.interactions
    test_items = torch.zeros(60, 50)
    test_items[interactions.test[:, 0], interactions.test[:, 1]] = 1
    valid_items = torch.zeros(60, 50)
    valid_items[interactions.valid[:, 0], interactions.valid[:, 1]] = 1
    train_items = torch.zeros(60, 50)
    train_items[data.train_users, data.train_items] = 1

    class Oracle(MF):
        def rank(self, users: Tensor) -> Tensor:
            return (3 * train_items + 2 * valid_items + test_items)[users]

    trainer = quiet_trainer()
    (valid,) = trainer.validate(Oracle(60, 50), data, verbose=False)
    (test,) = trainer.test(Oracle(60, 50), data, verbose=False)
    assert valid["val/ndcg@10"] == pytest.approx(1)
    assert test["test/ndcg@10"] == pytest.approx(1)


def test_predict_gives_the_best_unseen_items() -> None:
    data = tiny_catalog()
    model = MF(60, 50, ks=(3, 7))
    batches = quiet_trainer().predict(model, data)
    assert batches is not None
    scores = model.rank(torch.arange(60)).detach()
    seen = torch.cat([torch.stack([data.train_users, data.train_items], 1), data.interactions.valid])
    scores[seen[:, 0], seen[:, 1]] = -torch.inf
    expected = scores.topk(7, dim=1)
    assert torch.equal(torch.cat([batch["item"] for batch in batches]), expected.indices)  # type: ignore[call-overload]


def test_what_rank_returns_is_left_as_it_is() -> None:
    """A ranking by popularity returns one row for all users, and keeps it."""

    class Popularity(MF):
        copies = True

        def rank(self, users: Tensor, items: slice = slice(None)) -> Tensor:
            same_for_all = counts[items].expand(len(users), -1)
            return same_for_all.clone() if self.copies else same_for_all

    class Views(Popularity):
        copies = False

    data = tiny_catalog(eval_batch_size=7)
    data.setup()
    counts = torch.bincount(data.train_items, minlength=50).float()
    counts += torch.arange(50) / 100  # no ties
    before = counts.clone()
    copied, viewed = (quiet_trainer().test(kind(60, 50), data, verbose=False) for kind in (Popularity, Views))
    assert viewed == copied and copied[0]["test/recall@20"] > 0
    assert torch.equal(counts, before)


class Collecting(Callback):
    """Collects the losses and the sizes of an epoch's steps, and the mean that is logged when callbacks act."""

    def __init__(self) -> None:
        self.epochs: list[tuple[list[tuple[float, int]], float]] = []
        self.steps: list[tuple[float, int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append((float(outputs["loss"]), len(batch["user"])))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append((self.steps, float(trainer.callback_metrics["train/loss"])))
        self.steps = []


def test_the_logged_loss_is_the_mean_over_the_samples_of_its_epoch() -> None:
    data = tiny_catalog()
    model, collecting = MF(data.num_users, data.num_items, embedding_dim=4, l2=0.0), Collecting()
    trainer = quiet_trainer(max_epochs=4, limit_val_batches=0, callbacks=[collecting])
    # What a fit that was broken off leaves; the last one only where there is a GPU.
    model._mean_loss._epoch, model._mean_loss._sum, model._mean_loss._count = 0, 1e6, 1000
    model._losses._first = torch.tensor(3.0)
    trainer.fit(model, data)
    assert len(collecting.epochs) == 4
    for steps, logged in collecting.epochs:
        sizes = [size for _, size in steps]
        assert len(set(sizes)) == 2  # the last batch is smaller
        assert logged == pytest.approx(sum(loss * size for loss, size in steps) / sum(sizes), rel=1e-6)


def test_an_epoch_that_max_steps_ends_has_a_loss() -> None:
    data = tiny_catalog()
    model = MF(data.num_users, data.num_items, embedding_dim=4, l2=0.0)
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(model, data)
    assert 0.5 < float(trainer.callback_metrics["train/loss"]) < 1


def test_weights_of_any_type_become_those_of_the_losses(batch: dict[str, Tensor]) -> None:
    """A denoiser may return booleans, half precision or a number; what it returned is not changed by who gets it."""
    kept = torch.tensor([True, False])
    for given in (kept, kept.half(), 1.0):
        model = mf_by_hand("bpr", l2=0.0)
        model.attach_denoiser(lambda batch, losses, given=given: given)  # type: ignore[misc]
        weights, counts = model.weights_and_counts(batch, torch.ones(2))
        assert weights.dtype == counts.dtype == torch.float32 and weights.shape == counts.shape == (2,)
        expected = weights.clone()
        weights[0] = 7
        assert torch.equal(counts, expected) and kept.tolist() == [True, False]
