"""Callbacks: the only place where Lightning meets the method."""

from llmhd_pl.callbacks.topk_writer import TopKWriter
from llmhd_pl.callbacks.wandb_logger import WandbLogger

__all__ = ["TopKWriter", "WandbLogger"]
