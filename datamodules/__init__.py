"""Data modules for RLMRec's, RecBole's and PyTorch Geometric's data, tables of your own, and a catalog with a truth."""

from llmhd_pl.datamodules.atomic import AtomicFiles
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.evaluation import EvaluationBatches
from llmhd_pl.datamodules.hetero import HeteroGraphData
from llmhd_pl.datamodules.interactions import Interactions
from llmhd_pl.datamodules.pickles import RefusedPickleError
from llmhd_pl.datamodules.rlmrec import AmazonBooks, Steam, Yelp
from llmhd_pl.datamodules.synthetic import SyntheticCatalog
from llmhd_pl.datamodules.table_data import TableData
from llmhd_pl.datamodules.train_batches import TrainBatches

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
    "TableData",
    "TrainBatches",
    "Yelp",
]
