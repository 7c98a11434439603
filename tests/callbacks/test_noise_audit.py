from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from small_fits import Method, catalog, playback, quiet
from torch import Tensor

from llmhd_pl.callbacks import GraphPruning, NoiseAudit, SampleRecorder, VariancePruning
from llmhd_pl.callbacks.noise_audit import NOISE_KIND
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, HARD, NOISE


class Decide(Callback):
    """Writes given decisions into the store."""

    def __init__(self, recorder: SampleRecorder, status: Tensor, weights: Tensor) -> None:
        self.recorder, self.status, self.weights = recorder, status, weights

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.recorder.store.status.copy_(self.status)
        self.recorder.store.weights.copy_(self.weights)


def audit(folder: Path, kinds: list[int], status: list[int], weights: list[int], **arguments: Any) -> dict[str, float]:
    """The first samples are as the lists say, the rest are easy, clean and kept."""
    data = catalog()
    objective, known = arguments.pop("objective", "bpr"), arguments.pop("known", True)
    rest = len(data.train_users) - len(kinds)
    data.train_kinds = torch.tensor(kinds + [0] * rest, dtype=torch.int8)
    data.noise_mask = data.train_kinds == 2
    if not known:
        data.train_kinds = None
    all_status, all_weights = torch.tensor(status + [0] * rest), torch.tensor(weights + [1] * rest)
    if objective == "bce":  # what is decided about the sampled items is no business of the audit
        all_status = torch.stack([all_status, torch.randint(4, all_status.shape)], dim=1)
        all_weights = torch.stack([all_weights, torch.randint(2, all_weights.shape)], dim=1)
    recorder = SampleRecorder()
    trainer = quiet(folder, recorder, Decide(recorder, all_status, all_weights), NoiseAudit(), **arguments)
    trainer.fit(playback(data, 1, objective), data)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("audit/")}


KINDS = [2, 2, 2, 2, 1, 1, 1, 0, 0, 0]
STATUS = [NOISE, NOISE, CLEAN, HARD, HARD, HARD, NOISE, NOISE, HARD, CANDIDATE]
WEIGHTS = [0, 0, 1, 1, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_precision_and_recall_by_hand(tmp_path: Path, objective: str) -> None:
    assert audit(tmp_path, KINDS, STATUS, WEIGHTS, objective=objective) == pytest.approx(
        {
            "audit/dropped_is_noise_precision": 2 / 4,
            "audit/dropped_is_noise_recall": 2 / 4,
            "audit/kept_is_hard_precision": 2 / 4,  # found hard: a misclick, two hard ones, an easy one
            "audit/kept_is_hard_recall": 2 / 3,  # of the three hard ones in the noise set
        }
    )


def test_where_only_noise_is_known_what_is_not_noise_should_be_kept(tmp_path: Path) -> None:
    assert audit(tmp_path, KINDS, STATUS, WEIGHTS, known=False) == pytest.approx(
        {
            "audit/dropped_is_noise_precision": 2 / 4,
            "audit/dropped_is_noise_recall": 2 / 4,
            "audit/kept_is_hard_precision": 3 / 4,
            "audit/kept_is_hard_recall": 3 / 6,
        }
    )


def test_a_hard_sample_outside_the_noise_set_is_no_miss(tmp_path: Path) -> None:
    shares = audit(tmp_path, [1, 1, 2], [HARD, CLEAN, NOISE], [1, 1, 0])
    assert shares["audit/kept_is_hard_recall"] == 1


def test_nothing_of_nothing_is_nan(tmp_path: Path) -> None:
    shares = audit(tmp_path, [2, 0], [CLEAN, CLEAN], [1, 1])
    assert len(shares) == 4 and shares.pop("audit/dropped_is_noise_recall") == 0
    assert all(np.isnan(share) for share in shares.values())
    shares = audit(tmp_path, [2, 0], [NOISE, NOISE], [0, 0])
    assert shares["audit/dropped_is_noise_precision"] == 0.5 and np.isnan(shares["audit/kept_is_hard_precision"])


def test_samples_that_were_not_seen_do_not_count(tmp_path: Path) -> None:
    data = catalog()
    n = len(data.train_users)
    shares = audit(tmp_path, [2] * n, [NOISE] * n, [0] * n, limit_train_batches=1)
    assert shares["audit/dropped_is_noise_recall"] == shares["audit/dropped_is_noise_precision"] == 1
    shares = audit(tmp_path, [2] * n, [NOISE] * n, [0] * (n // 2) + [1] * (n - n // 2), limit_train_batches=1)
    assert shares["audit/dropped_is_noise_precision"] == 1 and 0 < shares["audit/dropped_is_noise_recall"] < 1


@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_the_file_has_the_truth_and_the_decisions(tmp_path: Path, objective: str) -> None:
    data = catalog()
    module, recorder = playback(data, 3, objective), SampleRecorder()
    quiet(tmp_path, recorder, VariancePruning(0.3, 1), NoiseAudit(), max_epochs=3).fit(module, data)
    with np.load(tmp_path / "audit.npz") as found:
        columns = dict(found)
    assert columns.keys() == {"kind", "status", "loss", "variance"}
    assert data.train_kinds is not None and columns["kind"].tolist() == data.train_kinds.tolist()
    loss = module.losses[2] if objective == "bpr" else module.losses[2, :, 0]
    status = recorder.store.status if objective == "bpr" else recorder.store.status[:, 0]
    assert columns["loss"].tolist() == loss.tolist() and columns["status"].tolist() == status.tolist()
    np.testing.assert_allclose(columns["variance"], module.positive.var(dim=0, correction=0), rtol=1e-5)
    assert [path.name for path in tmp_path.glob("*.npz")] == ["audit.npz"]


def test_without_the_truth_or_the_recorder(tmp_path: Path) -> None:
    data = catalog()
    with pytest.raises(RuntimeError, match="NoiseAudit needs SampleRecorder"):
        quiet(tmp_path, NoiseAudit()).fit(playback(data, 1), data)
    loader: Any = torch.utils.data.DataLoader([{}], batch_size=None)
    recorder = SampleRecorder(users=data.train_users, items=data.train_items)
    with pytest.raises(RuntimeError, match="NoiseAudit needs the truth: a data module with noise_mask"):
        quiet(tmp_path, recorder, NoiseAudit()).fit(playback(data, 1), loader)


def test_the_noise_that_was_given_is_the_truth(tmp_path: Path) -> None:
    data = catalog()
    given = torch.zeros(len(data.train_users), dtype=torch.bool)
    given[:5] = True
    assert not torch.equal(given, data.noise_mask)
    recorder, looks = SampleRecorder(noise=given), NoiseAudit()
    quiet(tmp_path, recorder, VariancePruning(0.3, 1), looks).fit(playback(data, 1), data)
    assert torch.equal(looks.kinds == NOISE_KIND, given)


def test_the_noise_of_other_samples_is_refused(tmp_path: Path) -> None:
    data = catalog()
    recorder = SampleRecorder(users=torch.cat([data.train_users] * 2), items=torch.cat([data.train_items] * 2))
    with pytest.raises(ValueError, match=r"noise_mask has \d+ samples, and SampleRecorder was given \d+"):
        quiet(tmp_path, recorder, NoiseAudit()).fit(playback(data, 1), data)


def test_data_that_knows_of_no_noise_is_not_audited(tmp_path: Path) -> None:
    data, method = catalog(misclick_share=0.0, hard_share=0.0), Method()
    trainer = quiet(tmp_path, *method.callbacks, NoiseAudit())
    trainer.fit(playback(data, 1), data)
    assert not [name for name in trainer.callback_metrics if name.startswith("audit/")]
    assert not (tmp_path / "audit.npz").exists()


@pytest.mark.parametrize("looks", [NoiseAudit, GraphPruning])
def test_what_looks_at_decisions_comes_after_them(tmp_path: Path, looks: type[Callback]) -> None:
    data, method = catalog(), Method()
    module = playback(data, 1)
    module.set_graph = lambda users, items: None  # type: ignore[assignment]
    callbacks = [method.recorder, method.pruning, looks(), method.llm]
    with pytest.raises(RuntimeError, match=f"{looks.__name__} must come after LLMSampleScorer"):
        quiet(tmp_path, *callbacks).fit(module, data)
