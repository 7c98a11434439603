import pytest
import torch
from small_models import BATCH, ITEMS, NUM_ITEMS, NUM_USERS, USERS, adjacency, attach, dense, normalized
from torch import Tensor

from llmhd_pl.backbones import NGCF


def model(**arguments: object) -> NGCF:
    torch.manual_seed(0)
    made = NGCF(NUM_USERS, NUM_ITEMS, embedding_dim=4, **({"hidden_dims": (3, 5)} | arguments))  # type: ignore[arg-type]
    for layer in (*made.sums, *made.products):
        torch.nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    made.set_graph(USERS, ITEMS)
    return made


def reference(made: NGCF, table: Tensor) -> Tensor:
    laplacian = normalized(adjacency())
    layers = [table]
    for of_sum, of_product in zip(made.sums, made.products, strict=True):
        w1, b1, w2, b2 = (p.detach().double() for layer in (of_sum, of_product) for p in layer.parameters())
        e = layers[-1]
        message = (laplacian @ e + e) @ w1.T + b1 + (laplacian @ e * e) @ w2.T + b2
        message = torch.where(message > 0, message, 0.2 * message)
        layers.append(message / message.norm(dim=1, keepdim=True))
    return torch.cat(layers, 1)


def test_embeddings_and_gradients_equal_the_dense_formula() -> None:
    made = model().eval()
    table = dense(made)
    ours, theirs = made.final_embeddings(), reference(made, table)
    assert ours.shape == (11, 4 + 3 + 5)
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(ours.shape)
    (gradient,) = torch.autograd.grad(ours, made.embedding.weight, upstream)
    (expected,) = torch.autograd.grad(theirs, table, upstream.double())
    torch.testing.assert_close(gradient.double(), expected, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert made.final_embeddings().dtype == made.rank(torch.arange(2)).dtype == torch.float32


@pytest.mark.parametrize("hidden", [(3, 5), (3,), ()])
@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_a_step_computes_the_rows_that_it_compares_and_gets_the_same_predictions_and_gradients(
    hidden: tuple[int, ...], dropped: float
) -> None:
    made = model(hidden_dims=hidden, message_dropout=dropped)
    attach(made)
    made.train()
    users, items = torch.tensor([0, 3, 0, 1]), torch.tensor([2, 2, 5, 0])
    final = made.final_embeddings()
    expected = (final[users] * final[NUM_USERS + items]).sum(1)
    ours = made.score(users, items)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn(4)
    parameters = list(made.parameters())
    for one, other in zip(
        torch.autograd.grad(ours, parameters, upstream),
        torch.autograd.grad(expected, parameters, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_message_dropout_belongs_to_the_seed_and_the_step_and_to_training() -> None:
    made, other = model(message_dropout=0.5), model(message_dropout=0.5, seed=1)
    plain = made.eval().final_embeddings()
    torch.testing.assert_close(plain.double(), reference(made, dense(made)), atol=1e-5, rtol=1e-5)
    for each in (made, other):
        attach(each)
        each.train()
    once = made.final_embeddings()
    assert torch.equal(made.final_embeddings(), once)
    assert not torch.equal(other.final_embeddings(), once)
    dropped = (once == 0)[:, 4:]
    assert 0.2 < dropped.float().mean() < 0.8 and not (once[:, :4] == 0).any()
    torch.testing.assert_close(once[:, :4], plain[:, :4])


def test_l2_on_the_table_has_the_gradient_of_l2_on_all_layers() -> None:
    """The authors' code takes the final embeddings, whose layers above the table have length 1."""
    made = model().eval()
    nodes = torch.cat([BATCH["user"], BATCH["positive"] + NUM_USERS, BATCH["negative"] + NUM_USERS])
    (ours,) = torch.autograd.grad(made.squared_norms(BATCH).sum(), made.embedding.weight)
    (theirs,) = torch.autograd.grad(made.final_embeddings()[nodes].square().sum(), made.embedding.weight)
    torch.testing.assert_close(ours.to_dense(), theirs, atol=1e-5, rtol=1e-5)


def test_without_a_graph_it_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"NGCF has no graph yet.*set_graph"):
        NGCF(2, 2).rank(torch.arange(2))
