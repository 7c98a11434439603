"""Callbacks: the only place where Lightning meets the method."""

from llmhd_pl.callbacks.topk_writer import TopKWriter

__all__ = ["TopKWriter"]
