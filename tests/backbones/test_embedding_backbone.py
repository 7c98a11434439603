import torch
from pytorch_lightning import Trainer

from llmhd_pl.backbones import MF, LightGCN
from llmhd_pl.datamodules import SyntheticCatalog


def test_rank_is_float32_under_autocast() -> None:
    model = MF(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        predictions = model.rank(torch.arange(3))
    assert predictions.dtype == torch.float32
    torch.testing.assert_close(predictions, model.rank(torch.arange(3)))


def test_evaluation_propagates_once() -> None:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10, eval_batch_size=7)
    model = LightGCN(40, 50)
    calls = []
    propagate = model.final_embeddings
    model.final_embeddings = lambda: calls.append(1) or propagate()  # type: ignore[method-assign,func-returns-value]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    assert len(calls) == 2
    trainer.predict(model, data)
    assert len(calls) == 3


def test_after_an_evaluation_the_embeddings_are_computed_again() -> None:
    data = SyntheticCatalog(40, 50, num_topics=5, books_per_reader=10)
    model = MF(40, 50)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    for evaluate in (trainer.validate, trainer.test, trainer.predict):
        evaluate(model, data)
        model.embedding.weight = torch.nn.Parameter(torch.randn_like(model.embedding.weight))
        table = model.embedding.weight
        assert torch.equal(model.rank(torch.arange(40)), table[:40] @ table[40:].T)
