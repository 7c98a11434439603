"""Train, validate, test and predict: ``python train.py fit --config quickstart``, the same as ``llmhd fit ...``."""

from llmhd_pl.__main__ import main as command_line
from llmhd_pl.cli import CLI, main

__all__ = ["CLI", "main"]

if __name__ == "__main__":
    command_line()
