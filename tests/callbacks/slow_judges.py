"""Two processes with a judge that is slow on one of them: ``python slow_judges.py FOLDER``.

The processes give up on each other after five seconds, where NCCL and gloo by default take half an hour.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from small_fits import quiet
from test_audited_rate import Sure, model, shop
from torch import Tensor

from llmhd_pl import LLMHD
from llmhd_pl.llm.scorer import Preference

SLOW = 8


class Slow(Sure):
    """Takes longer than the others wait: on the first process to prepare, on the second one to score and to revise."""

    trainer: Any = None

    def _on(self, rank: int) -> None:
        if self.trainer is not None and self.trainer.global_rank == rank:
            time.sleep(SLOW)

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Take long on the first process."""
        self._on(0)
        super().prepare(items, pairs)

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Take long on the second process."""
        self._on(1)
        return super().score(preferences, pairs)

    def revise(self, *arguments: Any) -> dict[int, Preference]:
        """Take long on the second process."""
        self._on(1)
        return {}


if __name__ == "__main__":
    data = shop()
    judge = Slow(data)
    strategy = DDPStrategy(process_group_backend="gloo", start_method="fork", timeout=timedelta(seconds=5))
    callbacks = LLMHD(judge, drop_rate=0.2, ramp_epochs=1, confidence_epochs=1)
    trainer = quiet(Path(sys.argv[1]), *callbacks, max_epochs=2, devices=2, strategy=strategy)
    judge.trainer = trainer
    trainer.fit(model(data), data)
