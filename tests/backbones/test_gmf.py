import pytest
import torch
from small_models import BATCH, attach

from llmhd_pl.backbones import GMF, MF


def by_hand() -> GMF:
    """Two users, (1, 2) and (0, 3); three items, (1, 1), (2, -1) and (0, 1)."""
    model = GMF(2, 3, embedding_dim=2)
    model.embedding.weight.data = torch.tensor([[1.0, 2], [0, 3], [1, 1], [2, -1], [0, 1]])
    model.output.weight.data = torch.tensor([[2.0, -1.0]])
    model.output.bias.data = torch.tensor([0.5])
    return model


def test_predictions_by_hand() -> None:
    model = by_hand()
    # user 0: (1, 2) x (1, 1) -> 2 * 1 - 2 = 0; (2, -1) -> 2 * 2 + 2 = 6; (0, 1) -> -2. user 1: -3, 3, -3
    expected = torch.tensor([[0.5, 6.5, -1.5], [-2.5, 3.5, -2.5]])
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    assert torch.equal(model.score(pairs[:, 0], pairs[:, 1]), expected.flatten())
    assert torch.equal(model.rank(torch.arange(2)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.rank(torch.arange(2)).dtype == model.score(pairs[:, 0], pairs[:, 1]).dtype == torch.float32


def test_gradients_by_hand() -> None:
    model = by_hand()
    model.score(torch.tensor([0]), torch.tensor([1])).sum().backward()
    assert model.output.weight.grad is not None and model.embedding.weight.grad is not None
    assert model.output.weight.grad.tolist() == [[2, -2]]  # p * q
    assert model.embedding.weight.grad.tolist() == [[4, 1], [0, 0], [0, 0], [2, -2], [0, 0]]  # h * q, h * p


def test_with_weights_of_one_it_is_matrix_factorisation() -> None:
    model, mf = GMF(5, 6), MF(5, 6)
    model.output.weight.data.fill_(1)
    model.output.bias.data.fill_(0)
    mf.embedding = model.embedding
    torch.testing.assert_close(model.rank(torch.arange(5)), mf.rank(torch.arange(5)))


def test_the_objective_is_pointwise_unless_asked_otherwise() -> None:
    for model, shape in ((GMF(5, 6), (4, 2)), (GMF(5, 6, objective="bpr"), (4,))):
        attach(model)
        assert model.training_step(BATCH, 0)["losses"].shape == shape
    with pytest.raises(ValueError, match="objective"):
        GMF(5, 6, objective="mse")  # type: ignore[arg-type]
