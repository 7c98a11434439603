"""Data modules for the data sets of RLMRec, RecBole and PyTorch Geometric, and a catalog whose truth is known."""

from llmhd_pl.datamodules.atomic import AtomicFiles
from llmhd_pl.datamodules.base import InteractionDataModule, TrainBatches
from llmhd_pl.datamodules.evaluation import EvaluationBatches
from llmhd_pl.datamodules.hetero import HeteroGraphData
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.datamodules.pickles import RefusedPickleError
from llmhd_pl.datamodules.rlmrec import AmazonBooks, Steam, Yelp
from llmhd_pl.datamodules.synthetic import SyntheticCatalog

__all__ = [
    "AmazonBooks",
    "AtomicFiles",
    "EvaluationBatches",
    "HeteroGraphData",
    "InteractionDataModule",
    "Interactions",
    "RefusedPickleError",
    "Steam",
    "SyntheticCatalog",
    "TrainBatches",
    "Yelp",
]
