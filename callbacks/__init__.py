"""Callbacks: the only place where Lightning meets the method."""

from llmhd_pl.callbacks.batch_denoiser import BatchDenoiser
from llmhd_pl.callbacks.cost_estimate import CostEstimate
from llmhd_pl.callbacks.double_correction import DoubleCorrection
from llmhd_pl.callbacks.early_stopping import EarlyStopping
from llmhd_pl.callbacks.epoch_end import EpochEndCallback
from llmhd_pl.callbacks.every_epoch_test import EveryEpochTest
from llmhd_pl.callbacks.graph_pruning import GraphPruning
from llmhd_pl.callbacks.llm_sample_scorer import LLMSampleScorer
from llmhd_pl.callbacks.noise_audit import NoiseAudit
from llmhd_pl.callbacks.oracle import Oracle
from llmhd_pl.callbacks.preference_updater import PreferenceUpdater
from llmhd_pl.callbacks.reweighted_loss import ReweightedLoss
from llmhd_pl.callbacks.sample_recorder import SampleRecorder
from llmhd_pl.callbacks.topk_writer import TopKWriter
from llmhd_pl.callbacks.truncated_loss import TruncatedLoss
from llmhd_pl.callbacks.variance_pruning import VariancePruning
from llmhd_pl.callbacks.wandb_logger import WandbLogger

__all__ = [
    "BatchDenoiser",
    "CostEstimate",
    "DoubleCorrection",
    "EarlyStopping",
    "EpochEndCallback",
    "EveryEpochTest",
    "GraphPruning",
    "LLMSampleScorer",
    "NoiseAudit",
    "Oracle",
    "PreferenceUpdater",
    "ReweightedLoss",
    "SampleRecorder",
    "TopKWriter",
    "TruncatedLoss",
    "VariancePruning",
    "WandbLogger",
]
