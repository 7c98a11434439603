"""The softmax and the choice of negatives, against the formulas written out for every sample."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import attach, catalog, quiet
from test_all import BACKBONES, each, make
from torch import Tensor

from llmhd_pl import SampleRecorder
from llmhd_pl.backbones import MF, EmbeddingBackbone, LightGCN
from llmhd_pl.backbones.comparisons import compare
from llmhd_pl.losses import bce_loss, bpr_loss

T = 0.5
BATCH = {
    "sample": torch.tensor([4, 9, 2]),
    "user": torch.tensor([0, 2, 1]),
    "positive": torch.tensor([1, 3, 2]),
    "negative": torch.tensor([3, 0, 2]),
    "candidates": torch.tensor([[3, 2], [0, 1], [2, 4]]),
}


def batch() -> dict[str, Tensor]:
    return dict(BATCH)


def factors(**arguments: Any) -> MF:
    torch.manual_seed(0)
    model = MF(3, 5, embedding_dim=4, l2=0.0, **({"softmax_temperature": T} | arguments))
    torch.nn.init.normal_(model.embedding.weight)
    attach(model)
    return model


def predictions(model: MF) -> Tensor:
    """All of them by the definition: [users, items]."""
    users, items = model.embedding.weight.double().split([3, 5])
    product = users @ items.t()
    if model.similarity == "cosine":
        product = product / (users.norm(dim=1)[:, None] * items.norm(dim=1))
    return product.detach()


def softmax(model: MF, others: list[list[int]], log_share: Tensor | None = None) -> Tensor:
    """Minus the logarithm of the observed item's share, sample by sample."""
    logits = predictions(model) / model.softmax_temperature
    if log_share is not None:
        logits = logits - log_share
    losses = []
    for user, positive, items in zip(BATCH["user"], BATCH["positive"], others, strict=True):
        exponentials = logits[user].exp()
        losses.append(-(exponentials[positive] / (exponentials[positive] + exponentials[items].sum())).log())
    return torch.stack(losses).float()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_batch_shares_its_sampled_items(similarity: Any) -> None:
    model = factors(objective="softmax", similarity=similarity)
    out = model.training_step(batch(), 0)
    # item 3 is observed in the second sample and item 2 in the third: neither is its own negative
    torch.testing.assert_close(out["losses"], softmax(model, [[3, 0, 2], [0, 2], [3, 0]]))
    torch.testing.assert_close(out["loss"], out["losses"].mean())
    every = predictions(model).float()
    torch.testing.assert_close(out["positive_score"], every[BATCH["user"], BATCH["positive"]])
    torch.testing.assert_close(out["negative_score"], every[BATCH["user"], BATCH["negative"]])


def test_several_processes_share_the_items_of_the_whole_batch() -> None:
    model = factors(objective="softmax")
    out = model.training_step(batch() | {"shared": torch.tensor([4, 1, 0, 0])}, 0)
    torch.testing.assert_close(out["losses"], softmax(model, [[4, 0, 0], [4, 1, 0, 0], [4, 1, 0, 0]]))


def test_observed_items_of_a_batch_are_corrected_by_their_popularity() -> None:
    model = factors(objective="softmax", negatives="in-batch")
    share = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05]).log()
    model.log_share = share
    out = model.training_step(batch(), 0)
    torch.testing.assert_close(out["losses"], softmax(model, [[3, 2], [1, 2], [1, 3]], share))


def test_the_popularity_is_counted_in_the_training_interactions() -> None:
    data = catalog()
    model = make("MF", objective="softmax", negatives="in-batch")
    quiet(max_epochs=1, limit_val_batches=0).fit(model, data)
    counts = torch.bincount(data.train_items, minlength=50).clamp(min=1)
    assert model.log_share is not None
    torch.testing.assert_close(model.log_share, (counts / len(data.train_items)).log())


def test_each_sample_may_be_compared_with_its_own_candidates() -> None:
    model = factors(objective="softmax", negatives="uniform")
    out = model.training_step(batch(), 0)
    torch.testing.assert_close(out["losses"], softmax(model, BATCH["candidates"].tolist()))


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_the_hardest_candidate_is_the_sampled_item(objective: Any) -> None:
    model = factors(objective=objective, negatives="hardest")
    given = batch()
    out = model.training_step(given, 0)
    every = predictions(model).float()[BATCH["user"]]
    best, place = every.gather(1, BATCH["candidates"]).max(dim=1)
    assert 0 < place.sum() < 3  # not always in the same column
    torch.testing.assert_close(out["negative_score"], best)
    loss = bpr_loss if objective == "bpr" else bce_loss
    torch.testing.assert_close(out["losses"], loss(every.gather(1, BATCH["positive"][:, None])[:, 0], best))
    assert torch.equal(given["negative"], BATCH["candidates"].gather(1, place[:, None])[:, 0])
    out["loss"].backward()
    used = torch.cat([BATCH["positive"], given["negative"]]).unique()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert gradient[3:].ne(0).any(dim=1).nonzero().flatten().tolist() == used.tolist()


@each
@pytest.mark.parametrize("negatives", ["shared", "in-batch", "uniform"])
def test_the_softmax_has_the_gradient_of_the_formula(name: str, negatives: Any) -> None:
    """On a whole batch, through each backbone's own way to predictions, against pairs that are scored one by one."""
    data = catalog(num_negatives=3)
    off = {
        "NeuMF": ["dropout"],
        "SGL": ["ssl_weight"],
        "NCL": ["structure_weight", "prototype_weight"],
        "RGCF": ["ssl_weight"],
    }
    more = dict.fromkeys(off.get(name, []), 0.0)
    model = make(name, objective="softmax", negatives=negatives, l2=0.0, **more)
    trainer = quiet(max_epochs=1, limit_val_batches=0, limit_train_batches=1)
    trainer.fit(model, data)
    attach(model)
    given = next(iter(data.train_dataloader()))
    model.zero_grad()
    model.training_step(given, 0)["loss"].backward()
    ours = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}

    model.zero_grad()
    pool = {"shared": given["negative"], "in-batch": given["positive"]}.get(negatives)
    others = given["candidates"] if pool is None else pool.expand(120, -1)
    items = torch.cat([given["positive"][:, None], others], dim=1)
    logits = model.score(given["user"].repeat_interleave(items.shape[1]), items.flatten()).view(items.shape) / 0.15
    if negatives == "in-batch":
        logits = logits - torch.bincount(data.train_items, minlength=50).clamp(min=1).log()[items]
    if pool is not None:
        own = (items == items[:, :1]) & (torch.arange(items.shape[1]) > 0)
        logits = logits.masked_fill(own, -torch.inf)
    torch.nn.functional.cross_entropy(logits, torch.zeros(120, dtype=torch.int64)).backward()
    for key, value in model.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(ours[key], value.grad, atol=1e-5, rtol=1e-3, msg=lambda text: f"{key}: {text}")  # noqa: B023


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "NeuMF"])
def test_validation_ranks_by_the_similarity_that_training_compares(name: str) -> None:
    model = make(name, objective="softmax")
    data = catalog()
    quiet(max_epochs=1).fit(model, data)
    model.eval()
    with torch.no_grad():
        ranked = model.rank(torch.arange(60))
        scored = model.score(torch.arange(60).repeat_interleave(50), torch.arange(50).repeat(60)).view(60, 50)
    torch.testing.assert_close(ranked, scored, atol=1e-5, rtol=1e-4)
    if isinstance(model, EmbeddingBackbone) and name != "GMF":
        assert model.similarity == "cosine"
        assert ranked.abs().max() <= 1.0001


@pytest.mark.parametrize(
    ("objective", "negatives"), [("softmax", "shared"), ("bpr", "hardest"), ("softmax", "uniform")]
)
def test_two_processes_take_the_same_steps_as_one(tmp_path: Path, objective: Any, negatives: Any) -> None:
    weights = []
    for devices in (1, 2):
        model = make("LightGCN", learning_rate=0.005, objective=objective, negatives=negatives)
        trainer = quiet(devices=devices, strategy="ddp_fork" if devices > 1 else "auto", limit_val_batches=0)
        trainer.fit(model, catalog(num_negatives=3))
        trainer.save_checkpoint(tmp_path / f"{devices}.ckpt")
        weights.append(torch.load(tmp_path / f"{devices}.ckpt")["state_dict"]["embedding.weight"])
    torch.testing.assert_close(*weights, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("negatives", ["shared", "in-batch", "uniform"])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_process_without_a_sample_of_the_batch_takes_part(name: str, negatives: Any) -> None:
    data = catalog(num_negatives=3)
    model = make(name, objective="softmax", negatives=negatives)
    quiet(max_epochs=1, limit_val_batches=0, limit_train_batches=1).fit(model, data)
    given = next(iter(data.train_dataloader()))
    empty = {key: value[:0] for key, value in given.items()} | {"shared": given["negative"]}
    compared = compare(model, empty)
    assert compared.losses.shape == compared.positive_score.shape == (0,)
    compared.losses.sum().backward()
    assert all(value.grad is not None for key, value in model.named_parameters() if "embedding" in key)


def test_the_chosen_candidate_reaches_callbacks_though_the_batch_is_copied() -> None:
    """DDP on a GPU gives the module a copy of the batch."""

    class Copying(MF):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(dict(batch), batch_idx)

    recorded = []
    for kind in (MF, Copying):
        torch.manual_seed(0)
        recorder = SampleRecorder()
        model = kind(60, 50, embedding_dim=16, negatives="hardest")
        quiet(max_epochs=1, limit_val_batches=0, callbacks=[recorder]).fit(model, catalog(num_negatives=3))
        recorded.append(recorder.store.negative_item)
    assert torch.equal(*recorded)
    assert not torch.equal(recorded[0].long(), catalog_of_one())


def catalog_of_one() -> Tensor:
    """The first candidates."""
    data = catalog(num_negatives=3)
    data.setup("fit")
    return data.negative_sampler.draw(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "softmax", "negatives": "hardest"}, "'softmax' it must be one of shared, in-batch, uniform"),
        ({"negatives": "shared"}, "'bpr' it must be one of uniform, hardest"),
        ({"objective": "softmax", "softmax_temperature": 0.0}, "softmax_temperature is 0.0; it must be a positive"),
        ({"similarity": "euclid"}, "similarity is 'euclid'; it must be 'dot' or 'cosine'"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LightGCN(3, 5, **arguments)


def test_candidates_that_are_missing_are_named() -> None:
    model = factors(negatives="hardest")
    given = batch()
    del given["candidates"]
    with pytest.raises(RuntimeError, match=r"no 'candidates'.*negatives='hardest'.*num_negatives of 2 or more"):
        model.training_step(given, 0)


def test_popularity_needs_interactions_to_count() -> None:
    model = make("MF", objective="softmax", negatives="in-batch")
    data = catalog()
    data.prepare_data()
    data.setup("fit")
    from llmhd_pl.datamodules.train_batches import TrainBatches

    with pytest.raises(RuntimeError, match=r"MF needs the training interactions.*negatives='shared'"):
        quiet(max_epochs=1).fit(model, TrainBatches(data, lambda: 0))
