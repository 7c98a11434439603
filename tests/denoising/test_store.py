import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmhd_pl.denoising.flags import flag
from llmhd_pl.denoising.store import SampleStore

NAN = float("nan")


def record(store: SampleStore, epoch: int, positive: dict[int, float], item: int | dict[int, int] = 7) -> None:
    """An epoch in which these samples are seen; the sampled item's prediction is ten times the observed one's."""
    store.begin_epoch(epoch)
    samples = list(positive)
    scores = torch.tensor([positive[sample] for sample in samples])
    items = torch.tensor([item if isinstance(item, int) else item[sample] for sample in samples], dtype=torch.int64)
    losses = scores + 100 if not store.pointwise else torch.stack([scores + 100, scores + 200], dim=1)
    store.record(torch.tensor(samples, dtype=torch.int64), scores, 10 * scores, losses, items)


class Remembering:
    """What a store should know of the sampled items of 4 samples, looked up step by step in plain Python."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.item = [-1] * 4
        self.scores: list[dict[int, float]] = [{} for _ in range(4)]  # by epoch, all of the same item
        self.flags = [0] * 4

    def see(self, epoch: int, sample: int, item: int, score: float | None) -> None:
        if item != self.item[sample]:
            self.item[sample], self.flags[sample] = item, 0
            self.scores[sample] = {}
        self.scores[sample][epoch] = NAN if score is None else score

    def rows(self, epoch: int) -> list[list[float]]:
        rows = [[NAN] * 4 for _ in range(self.window)]
        for past in range(max(0, epoch - self.window + 1), epoch + 1):
            for sample, scores in enumerate(self.scores):
                rows[past % self.window][sample] = scores.get(past, NAN)
        return rows


STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.one_of(st.none(), st.integers(-9, 9))),
        st.sampled_from(["epoch", "flag", "save", "look"]),
    ),
    max_size=40,
)


@given(STEPS, st.integers(2, 4))
def test_what_is_known_of_a_sampled_item_is_about_that_item_alone(steps: list, window: int) -> None:
    store, truth = SampleStore(4, window), Remembering(window)
    store.begin_epoch(0)
    seen: dict[int, int] = {}  # the items of this epoch: an item that comes back within an epoch has not been forgotten
    for step in steps:
        match step:
            case "epoch":
                store.begin_epoch(store.epoch + 1)
                seen = {}
            case "flag":
                store.false_negative_flags.add_(1)
                truth.flags = [flags + 1 for flags in truth.flags]
            case "save":
                state = {name: copy(value) for name, value in store.state_dict().items()}
                store = SampleStore(4, window)
                store.load_state_dict(state)
            case "look":
                assert_equal(store.negative, torch.tensor(truth.rows(store.epoch)))
                assert store.false_negative_flags.tolist() == truth.flags
            case sample, item, score:
                item = seen.setdefault(sample, item)
                scored = None if score is None else torch.tensor([float(score)])
                store.record(torch.tensor([sample]), torch.ones(1), scored, torch.ones(1), torch.tensor([item]))
                truth.see(store.epoch, sample, item, score)
    assert_equal(store.negative, torch.tensor(truth.rows(store.epoch)))
    assert store.false_negative_flags.tolist() == truth.flags
    assert store.negative_item.tolist() == truth.item


def copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def assert_equal(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_sampled_item_that_changes_twice_within_an_epoch_starts_anew() -> None:
    store = SampleStore(1, window=3)
    for epoch, item in enumerate((7, 7, 8, 9)):
        record(store, min(epoch, 2), {0: float(epoch)}, item)
    assert store.negative.flatten().tolist() == pytest.approx([NAN, NAN, 30.0], nan_ok=True)


def test_what_was_decided_of_a_sampled_item_holds_for_no_other() -> None:
    store = SampleStore(3, pointwise=True)
    record(store, 0, {0: 1.0, 1: 2.0, 2: 3.0}, {0: 7, 1: 8, 2: 9})
    store.weights[:] = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.5]])
    weights = store.weights_of(torch.tensor([2, 0, 1]), torch.tensor([9, 7, 7]))
    assert weights.tolist() == [[1.0, 0.5], [0.0, 0.0], [1.0, 1.0]]  # 1 has another item now
    pairwise = SampleStore(2)
    pairwise.weights[:] = torch.tensor([0.0, 1.0])
    assert pairwise.weights_of(torch.tensor([1, 0]), torch.tensor([3, 4])).tolist() == [1.0, 0.0]


def test_losses_that_a_decision_can_be_about_by_hand() -> None:
    store = SampleStore(3, window=2, pointwise=True)
    record(store, 0, {0: 1.0, 1: 2.0, 2: 3.0}, {0: 7, 1: 8, 2: 9})
    assert store.selectable()[:, 0].tolist() == [101.0, 102.0, 103.0] and store.selectable()[:, 1].isnan().all()
    record(store, 1, {0: 1.0, 1: 2.0}, {0: 7, 1: 9})  # 0 has the same item, 1 another, 2 was not seen
    selectable = store.selectable()
    assert selectable[:, 0].tolist() == pytest.approx([101.0, 102.0, NAN], nan_ok=True)
    assert selectable[:, 1].tolist() == pytest.approx([201.0, NAN, NAN], nan_ok=True)
    assert store.losses[:2].tolist() == [[101.0, 201.0], [102.0, 202.0]]  # untouched
    pairwise = SampleStore(1)
    record(pairwise, 0, {0: 1.0})
    assert pairwise.selectable() is pairwise.losses


def test_variance_over_the_window_by_hand() -> None:
    store = SampleStore(4, window=3)
    record(store, 0, {0: 1.0, 1: 5.0, 2: 2.0})
    assert all(values.isnan().all() for values in store.variances())  # one epoch is no variance
    record(store, 1, {0: 3.0, 1: 5.0})
    positive, negative = store.variances()
    assert positive.tolist() == pytest.approx([1.0, 0.0, NAN, NAN], nan_ok=True)  # 2 was not seen in this epoch
    assert negative.tolist() == pytest.approx([100.0, 0.0, NAN, NAN], nan_ok=True)
    record(store, 2, {0: 5.0, 2: 4.0, 3: 1.0})
    positive, negative = store.variances()
    # 0: 1, 3, 5; 2: 2, not there, 4; 3: one epoch only
    assert positive.tolist() == pytest.approx([8 / 3, NAN, 1.0, NAN], nan_ok=True)
    record(store, 3, {0: 4.0, 2: 4.0})
    # The first epoch has left the window. 0: 3, 5, 4; 2: 4, 4 and not there.
    assert store.variances()[0].tolist() == pytest.approx([2 / 3, NAN, 0.0, NAN], nan_ok=True)


def test_variance_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SampleStore(10, window=3)
    store.begin_epoch(4)
    torch.manual_seed(0)
    store.positive.normal_()
    store.negative.normal_()[:, 0] = torch.nan
    store.positive[1, 3:8] = torch.nan  # not seen in this epoch: the whole second chunk and its neighbours
    whole = store.variances()
    monkeypatch.setattr("llmhd_pl.denoising.store._CHUNK", 4)
    for one, other in zip(store.variances(), whole, strict=True):
        assert 0 < int(one.isnan().sum()) < 10
        torch.testing.assert_close(one, other, equal_nan=True)


def test_small_variances_of_large_predictions_are_not_lost() -> None:
    store = SampleStore(1, window=2)
    record(store, 0, {0: 1000.0})
    record(store, 1, {0: 1000.0 + 2.0**-10})
    assert float(store.variances()[0]) == pytest.approx(2.0**-22)


def test_a_changed_negative_starts_anew() -> None:
    store = SampleStore(2, window=3)
    flags = store.false_negative_flags
    for epoch in range(3):
        record(store, epoch, {0: float(epoch), 1: float(epoch)}, item={0: 7, 1: 8})
        assert not flag(store.variances()[1], 1.0, flags, 3).any()  # the first epoch has no variance
    assert flags.tolist() == [2, 2] and store.negative_item.tolist() == [7, 8]
    record(store, 3, {0: 3.0, 1: 3.0}, item={0: 9, 1: 8})
    positive, negative = store.variances()
    assert positive.tolist() == pytest.approx([2 / 3, 2 / 3])  # the observed item is the same
    assert negative.tolist() == pytest.approx([NAN, 200 / 3], nan_ok=True)
    assert flags.tolist() == [0, 2] and store.negative_item.tolist() == [9, 8]
    assert flag(negative, 1.0, flags, 3).tolist() == [False, True]
    assert store.negative[:, 0].isnan().sum() == 2 and not store.positive[:, 0].isnan().any()


@pytest.mark.parametrize("pointwise", [False, True])
def test_losses_are_of_this_epoch_only(pointwise: bool) -> None:
    store = SampleStore(3, pointwise=pointwise)
    record(store, 0, {0: 1.0, 2: 3.0})
    first = store.losses if not pointwise else store.losses[:, 0]
    assert first.tolist() == pytest.approx([101.0, NAN, 103.0], nan_ok=True)
    if pointwise:
        assert store.losses[:, 1].tolist() == pytest.approx([201.0, NAN, 203.0], nan_ok=True)
    record(store, 1, {1: 2.0})
    first = store.losses if not pointwise else store.losses[:, 0]
    assert first.tolist() == pytest.approx([NAN, 102.0, NAN], nan_ok=True)


def test_an_epoch_that_was_begun_before_goes_on() -> None:
    store = SampleStore(2)
    record(store, 4, {0: 1.0})
    record(store, 4, {1: 2.0})
    assert store.losses.tolist() == [101.0, 102.0]


@pytest.mark.parametrize(("pointwise", "size"), [(False, 57), (True, 64)])
def test_memory(pointwise: bool, size: int) -> None:
    assert SampleStore(10, pointwise=pointwise).bytes_per_sample == size


@pytest.mark.parametrize("window", [1, 0, -3])
def test_a_window_without_a_variance_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"window is {window}.*at least 2"):
        SampleStore(3, window)


def fill(store: SampleStore, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for epoch in range(int(rng.integers(0, 7))):
        seen = {sample: float(rng.normal()) for sample in range(store.num_samples) if rng.random() < 0.7}
        record(store, epoch, seen, {sample: int(rng.integers(3)) for sample in seen})
    for part in (store.status, store.weights, store.false_positive_flags):
        part.copy_(torch.from_numpy(rng.integers(0, 2, tuple(part.shape))))


def tensors(store: SampleStore) -> dict[str, Tensor]:
    return {name: value for name, value in store.state_dict().items() if isinstance(value, Tensor)}


@settings(max_examples=30)
@given(st.integers(0, 6), st.integers(2, 4), st.booleans(), st.integers(0, 1000))
def test_a_state_dict_goes_round(size: int, window: int, pointwise: bool, seed: int) -> None:
    store, other = SampleStore(size, window, pointwise), SampleStore(size, window, pointwise)
    fill(store, seed)
    fill(other, seed + 1)
    other.load_state_dict(store.state_dict())
    assert other.epoch == store.epoch and len(tensors(store)) == 8
    for name, value in tensors(store).items():
        assert torch.equal(value.nan_to_num(-9.0), tensors(other)[name].nan_to_num(-9.0)), name
        assert value.dtype == tensors(other)[name].dtype
        assert value.numel() == 0 or value.data_ptr() != tensors(other)[name].data_ptr()  # a copy
    record(other, store.epoch + 1, dict.fromkeys(range(size), 5.0))
    record(store, store.epoch + 1, dict.fromkeys(range(size), 5.0))
    for one, two in zip(store.variances(), other.variances(), strict=True):
        assert torch.equal(one.nan_to_num(-9.0), two.nan_to_num(-9.0))


@pytest.mark.parametrize("other", [{"num_samples": 4}, {"window": 4}, {"pointwise": True}])
def test_a_state_of_another_run_is_refused_and_nothing_is_taken_over(other: dict[str, int]) -> None:
    store = SampleStore(**({"num_samples": 5, "window": 3} | other))  # type: ignore[arg-type]
    given = SampleStore(5, 3)
    record(given, 0, {0: 1.0})
    with pytest.raises(ValueError, match="same data, the same noise, window and objective"):
        store.load_state_dict(given.state_dict())
    assert store.epoch == -1 and store.positive.isnan().all() and (store.negative_item == -1).all()
