"""Backbones: recommenders as LightningModules."""

from llmhd_pl.backbones.base import Backbone
from llmhd_pl.backbones.embedding_backbone import EmbeddingBackbone
from llmhd_pl.backbones.gmf import GMF
from llmhd_pl.backbones.graph_backbone import GraphBackbone
from llmhd_pl.backbones.lightgcn import LightGCN
from llmhd_pl.backbones.mf import MF
from llmhd_pl.backbones.ncl import NCL
from llmhd_pl.backbones.neumf import NeuMF
from llmhd_pl.backbones.ngcf import NGCF
from llmhd_pl.backbones.rgcf import RGCF
from llmhd_pl.backbones.sgl import SGL

__all__ = [
    "GMF",
    "MF",
    "NCL",
    "NGCF",
    "RGCF",
    "SGL",
    "Backbone",
    "EmbeddingBackbone",
    "GraphBackbone",
    "LightGCN",
    "NeuMF",
]
