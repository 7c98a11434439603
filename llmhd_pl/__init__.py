"""Denoising for implicit-feedback recommenders with a language model (LLMHD), as PyTorch Lightning modules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from llmhd_pl.backbones import GMF, MF, NCL, NGCF, RGCF, SGL, Backbone, LightGCN, NeuMF
    from llmhd_pl.callbacks import (
        CostEstimate,
        DoubleCorrection,
        GraphPruning,
        LLMSampleScorer,
        NoiseAudit,
        Oracle,
        PreferenceUpdater,
        ReweightedLoss,
        SampleRecorder,
        TruncatedLoss,
        VariancePruning,
    )
    from llmhd_pl.checkpoint_io import SafeCheckpointIO
    from llmhd_pl.datamodules import (
        AmazonBooks,
        AtomicFiles,
        HeteroGraphData,
        InteractionDataModule,
        Steam,
        SyntheticCatalog,
        TableData,
        Yelp,
    )
    from llmhd_pl.llm.cascade import CascadeScorer
    from llmhd_pl.llm.encoder import EncoderScorer
    from llmhd_pl.llm.endpoint import EndpointScorer
    from llmhd_pl.llm.judge import EmbeddedJudge
    from llmhd_pl.llm.lexical import LexicalScorer
    from llmhd_pl.llm.quantized import QuantizedLLM
    from llmhd_pl.llm.scorer import Scorer
    from llmhd_pl.methods import DCF, LLMHD, RCE, TCE, Denoising, LossDropping, NoiseOracle
    from llmhd_pl.padding import pad_samples
    from llmhd_pl.sample_weights import SampleWeights

# Where each public name lives. They are imported when they are first used: Lightning alone takes seconds.
_MODULES = {
    "llmhd_pl.backbones": ("Backbone", "GMF", "LightGCN", "MF", "NCL", "NGCF", "NeuMF", "RGCF", "SGL"),
    "llmhd_pl.callbacks": (
        "CostEstimate",
        "DoubleCorrection",
        "GraphPruning",
        "LLMSampleScorer",
        "NoiseAudit",
        "Oracle",
        "PreferenceUpdater",
        "ReweightedLoss",
        "SampleRecorder",
        "TruncatedLoss",
        "VariancePruning",
    ),
    "llmhd_pl.checkpoint_io": ("SafeCheckpointIO",),
    "llmhd_pl.datamodules": (
        "AmazonBooks",
        "AtomicFiles",
        "HeteroGraphData",
        "InteractionDataModule",
        "Steam",
        "SyntheticCatalog",
        "TableData",
        "Yelp",
    ),
    "llmhd_pl.llm.cascade": ("CascadeScorer",),
    "llmhd_pl.llm.encoder": ("EncoderScorer",),
    "llmhd_pl.llm.endpoint": ("EndpointScorer",),
    "llmhd_pl.llm.judge": ("EmbeddedJudge",),
    "llmhd_pl.llm.lexical": ("LexicalScorer",),
    "llmhd_pl.llm.quantized": ("QuantizedLLM",),
    "llmhd_pl.llm.scorer": ("Scorer",),
    "llmhd_pl.methods": ("DCF", "Denoising", "LLMHD", "LossDropping", "NoiseOracle", "RCE", "TCE"),
    "llmhd_pl.padding": ("pad_samples",),
    "llmhd_pl.sample_weights": ("SampleWeights",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DCF",
    "GMF",
    "LLMHD",
    "MF",
    "NCL",
    "NGCF",
    "RCE",
    "RGCF",
    "SGL",
    "TCE",
    "AmazonBooks",
    "AtomicFiles",
    "Backbone",
    "CascadeScorer",
    "CostEstimate",
    "Denoising",
    "DoubleCorrection",
    "EmbeddedJudge",
    "EncoderScorer",
    "EndpointScorer",
    "GraphPruning",
    "HeteroGraphData",
    "InteractionDataModule",
    "LLMSampleScorer",
    "LexicalScorer",
    "LightGCN",
    "LossDropping",
    "NeuMF",
    "NoiseAudit",
    "NoiseOracle",
    "Oracle",
    "PreferenceUpdater",
    "QuantizedLLM",
    "ReweightedLoss",
    "SafeCheckpointIO",
    "SampleRecorder",
    "SampleWeights",
    "Scorer",
    "Steam",
    "SyntheticCatalog",
    "TableData",
    "TruncatedLoss",
    "VariancePruning",
    "Yelp",
    "__version__",
    "pad_samples",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
