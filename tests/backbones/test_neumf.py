from typing import Any

import numpy as np
import pytest
import torch
from small_models import BATCH, attach, fit
from torch import Tensor

from llmhd_pl.backbones import NeuMF, neumf


def reference(model: NeuMF, user: int, item: int) -> float:
    """One pair at a time, in NumPy."""
    weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    item += model.num_users
    mf = weights["embedding.weight"][user] * weights["embedding.weight"][item]
    x = np.concatenate([weights["mlp_embedding.weight"][user], weights["mlp_embedding.weight"][item]])
    for layer in range(len(model.hidden)):
        x = np.maximum(weights[f"hidden.{layer}.weight"] @ x + weights[f"hidden.{layer}.bias"], 0)
    return float((weights["output.weight"] @ np.concatenate([mf, x]) + weights["output.bias"])[0])


def model(num_users: int = 5, num_items: int = 6, **arguments: object) -> NeuMF:
    torch.manual_seed(0)
    made = NeuMF(num_users, num_items, embedding_dim=4, **arguments)  # type: ignore[arg-type]
    for table in (made.embedding, made.mlp_embedding):
        torch.nn.init.normal_(table.weight)
    return made.eval()


@pytest.mark.parametrize("hidden_dims", [(7,), (6, 3), (5, 4, 3)])
def test_predictions_equal_the_formula(hidden_dims: tuple[int, ...]) -> None:
    made = model(hidden_dims=hidden_dims)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(6))
    expected = [reference(made, user, item) for user, item in pairs.tolist()]
    assert made.score(pairs[:, 0], pairs[:, 1]).tolist() == pytest.approx(expected, abs=1e-5)
    assert made.rank(torch.arange(5)).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_ranking_in_blocks_equals_scoring_pair_by_pair() -> None:
    made = model(40, 2100)
    users = torch.randperm(40)[:37]
    ranked = made.rank(users)
    for row, user in enumerate(users.tolist()):
        scores = made.score(torch.full((2100,), user), torch.arange(2100))
        torch.testing.assert_close(ranked[row], scores, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.rank(users), ranked)


def test_ranking_takes_little_memory() -> None:
    """All pairs at once would take 300 * 3000 * 128 numbers in the first layer alone, 460 MB."""
    made = model(300, 3000)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        made.rank(torch.arange(300))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 16 * 1024 * 128 * 4


def test_dropout_belongs_to_the_seed_and_the_step() -> None:
    users, items = BATCH["user"], BATCH["positive"]
    one, other = model(dropout=0.5), model(dropout=0.5, seed=1)
    plain = one.score(users, items)
    for each in (one, other):
        attach(each)
        each.train()
    assert torch.equal(one.score(users, items), one.score(users, items))
    assert not torch.equal(one.score(users, items), other.score(users, items))
    assert not torch.equal(one.score(users, items), plain)
    assert torch.equal(one.eval().score(users, items), plain)


@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_each_batch_of_a_step_draws_its_own_dropout(monkeypatch: pytest.MonkeyPatch, accumulated: int) -> None:
    """A step of one batch draws what it drew when only the step counted, and so does the first batch of any step."""
    keys: list[tuple[int | str, ...]] = []
    drawn: list[Tensor] = []
    generator, factors = neumf.seeded_generator, neumf.dropout_factors

    def listen(device: torch.device, *key: int | str) -> torch.Generator:
        keys.append(key)
        return generator(device, *key)

    def draw(*arguments: Any) -> Tensor:
        drawn.append(factors(*arguments))
        return drawn[-1]

    monkeypatch.setattr(neumf, "seeded_generator", listen)
    monkeypatch.setattr(neumf, "dropout_factors", draw)
    made = NeuMF(60, 50, embedding_dim=4, hidden_dims=(4,), dropout=0.5)
    fit(made, accumulate_grad_batches=accumulated, limit_val_batches=0)  # two epochs of five batches
    steps = -(-5 // accumulated)
    assert keys[::5] == [("neumf", 0, 0, 0), ("neumf", 0, steps, 0)]
    for number, key in enumerate(keys):
        epoch, place = divmod(number, 5)
        step, within = epoch * steps + place // accumulated, place % accumulated
        assert key == (("neumf", 0, step, 0, within) if within else ("neumf", 0, step, 0))
    assert len({tuple(mask[:100].flatten().tolist()) for mask in drawn}) == len(drawn) == 10


def test_l2_counts_both_towers() -> None:
    made = model()
    norms = [table.weight.square().sum(1) for table in (made.embedding, made.mlp_embedding)]
    nodes = (BATCH["user"], BATCH["positive"] + 5, BATCH["negative"] + 5)
    torch.testing.assert_close(made.squared_norms(BATCH), sum(norm[node] for norm in norms for node in nodes))


def test_no_hidden_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_dims"):
        NeuMF(2, 3, hidden_dims=())
