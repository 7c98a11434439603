"""Backbones: recommenders as LightningModules."""

from llmhd_pl.backbones.base import Backbone, EmbeddingBackbone, SampleWeights
from llmhd_pl.backbones.lightgcn import LightGCN
from llmhd_pl.backbones.mf import MF

__all__ = ["MF", "Backbone", "EmbeddingBackbone", "LightGCN", "SampleWeights"]
