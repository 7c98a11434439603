import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from small_models import catalog, quiet

from llmhd_pl.backbones import GMF, MF, LightGCN
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


@pytest.mark.parametrize("kind", [MF, GMF, LightGCN])
def test_a_checkpoint_that_is_written_in_an_evaluation_holds_the_parameters_alone(kind: Any, tmp_path: Path) -> None:
    class Save(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            names.append([name for name, _ in pl_module.named_parameters()])
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    names: list[list[str]] = []
    model = kind(60, 50, embedding_dim=4)
    expected = [name for name, _ in model.named_parameters()]
    quiet(callbacks=[Save()], max_epochs=1).fit(model, catalog())
    assert names == [expected]
    assert kind.load_from_checkpoint(tmp_path / "a.ckpt").embedding.weight.equal(model.embedding.weight)


def test_a_large_ranking_outside_of_a_run_leaves_the_parameters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MF(6, 50, embedding_dim=4)
    monkeypatch.setattr(MF, "_where", lambda self: "here")
    model.top_of_many(torch.arange(6), torch.empty(2, 0, dtype=torch.int64), 3)
    assert list(model._parameters) == [] and list(model.state_dict()) == ["embedding.weight"]


class Break(Callback):
    """Ends an evaluation by an error, or by Ctrl-C, in the second batch."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def on_validation_batch_end(self, *arguments: Any) -> None:
        self._end(arguments[4])

    def on_test_batch_end(self, *arguments: Any) -> None:
        self._end(arguments[4])

    def on_predict_batch_end(self, *arguments: Any) -> None:
        self._end(arguments[4])

    def _end(self, batch_idx: int) -> None:
        if batch_idx == 1:
            raise self.error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("kind", [MF, GMF, LightGCN])
def test_an_evaluation_that_is_broken_off_leaves_nothing_behind(
    kind: Any, name: str, error: type[BaseException]
) -> None:
    data, model = catalog(eval_batch_size=9), kind(60, 50, embedding_dim=4)
    other = kind(60, 50, embedding_dim=4)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((ValueError, SystemExit)):  # Lightning makes the one of Ctrl-C
            getattr(quiet(callbacks=[Break(error)]), name)(model, data)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    model.load_state_dict(other.state_dict())
    expected = [getattr(quiet(), each)(other, data, verbose=False) for each in ("validate", "test")]
    assert torch.equal(model.rank(torch.arange(60)), other.rank(torch.arange(60)))
    assert [getattr(quiet(), each)(model, data, verbose=False) for each in ("validate", "test")] == expected
