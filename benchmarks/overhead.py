"""Measure what the method's callbacks cost: epochs of LightGCN on Yelp with and without them.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py --data_dir data/yelp

In a fit (d = 64, 2 layers, batch 1024, 20 % random noise) the callbacks act in every second epoch, so that a machine
that changes its speed changes it for both. The judge answers at once from a formula, so that the figures contain
everything but the time of the language model itself. The drop rate has its final value from the first epoch on.

The first table has the time of an epoch, from its first batch to the end of ``on_train_epoch_end``: wall-clock time and
CPU time, which other work on the machine disturbs less. The second table has the CPU time of each callback's hooks, of
a second fit, because a clock at every hook takes time as well. It does not contain the look-up of the weights in the
training step, but neither is it a difference of two large numbers. On a GPU it is the time in which the hooks say what
is to be done, and wait.
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from devices import add_accelerator, chosen_device, synchronize
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import Profiler
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.backbones import LightGCN
from llmhd_pl.callbacks import LLMSampleScorer, PreferenceUpdater, SampleRecorder, VariancePruning
from llmhd_pl.datamodules import Yelp
from llmhd_pl.llm.scorer import Preference, Scorer
from llmhd_pl.memory import keep_freed_memory

TEXT = "Likes quiet cafes with good espresso, Thai food and independent bookshops; avoids chains and loud bars. " * 3


class InstantJudge(Scorer):
    """A ``Scorer`` whose answers cost nothing. Its preferences are as long as those of language models."""

    def prepare(self, items: Sequence[Mapping[str, str]], pairs: Tensor) -> None:
        """Do nothing."""

    def summarize(self, histories: Mapping[int, Sequence[int]]) -> dict[int, Preference]:
        """Return the same preference for every user."""
        return dict.fromkeys(histories, TEXT)

    def score(self, preferences: Mapping[int, Preference], pairs: Tensor) -> Tensor:
        """Return arbitrary scores between 1 and 10."""
        return 1 + (pairs[:, 0] * 7919 + pairs[:, 1] * 104729) % 1000 / 111

    def revise(
        self,
        preferences: Mapping[int, Preference],
        disliked: Mapping[int, Sequence[int]],
        liked: Mapping[int, Sequence[int]],
    ) -> dict[int, Preference]:
        """Return the same preference for every user."""
        return dict.fromkeys(disliked.keys() | liked.keys(), TEXT)


class CPUTimes(Profiler):
    """Adds up the CPU seconds of every hook."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self._started: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Start the clock of a hook."""
        self._started[action_name] = time.process_time()

    def stop(self, action_name: str) -> None:
        """Stop the clock of a hook."""
        self.seconds[action_name] += time.process_time() - self._started.pop(action_name)


class Switchable(LightGCN):
    """LightGCN whose denoisers can be switched off."""

    denoised = True

    def weights_and_counts(self, batch: Any, losses: Tensor, *given: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the weights and counts of the denoisers, or ones while they are switched off."""
        if self.denoised:
            return super().weights_and_counts(batch, losses, *given)
        ones = torch.ones_like(losses)
        return ones, ones


class Alternate(Callback):
    """Lets the method act in every second epoch and measures the epochs. It must be the last callback.

    Args:
        method: The method's callbacks.
        profiler: The profiler of the trainer, if it has one.
    """

    def __init__(self, method: Sequence[Callback], profiler: CPUTimes | None) -> None:
        self.method, self.profiler = list(method), profiler
        self.hooks: list[dict[str, float]] = []  # the CPU seconds of the hooks, of each epoch in which they act
        # The (wall-clock, CPU) seconds of the epochs in which the method acts, and of those in which it does not.
        self.times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Start the clocks."""
        if batch_idx == 0:
            synchronize(pl_module.device)
            self._start = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clocks and switch the method on or off."""
        acted = len(trainer.callbacks) > 1
        synchronize(pl_module.device)
        self.times[acted].append((time.perf_counter() - self._start[0], time.process_time() - self._start[1]))
        if self.profiler is not None:
            if acted:
                seconds = self.profiler.seconds.items()
                self.hooks.append({name: spent for name, spent in seconds if "[Callback]" in name})
            self.profiler.seconds.clear()
        trainer.callbacks = [self] if acted else [*self.method, self]
        pl_module.denoised = not acted


def fit(data: Yelp, arguments: argparse.Namespace, device: torch.device, profiler: CPUTimes | None) -> Alternate:
    """Train, and return what the epochs and the hooks have taken."""
    model = Switchable(data.num_users, data.num_items, embedding_dim=64, num_layers=2, learning_rate=0.005, l2=0.001)
    method: list[Callback] = [
        SampleRecorder(),
        VariancePruning(arguments.max_drop_rate, ramp_iterations=1),
        LLMSampleScorer(InstantJudge(), scored=arguments.scored),
        PreferenceUpdater(),
    ]
    alternate = Alternate(method, profiler)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=device.type,
            devices=1,
            max_epochs=2 * (arguments.rounds + 2),
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=folder,
            profiler=profiler,
            callbacks=[*method, alternate],
        )
        trainer.fit(model, data)
    return alternate


def main() -> None:
    """Train, and print the medians, their ratio, and where the time went."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/yelp", help="folder with Yelp in RLMRec's layout")
    parser.add_argument(
        "--rounds", type=int, default=8, help="epochs of each kind, after two of each that do not count"
    )
    parser.add_argument("--negative_lifetime", type=int, default=1)
    parser.add_argument("--max_drop_rate", type=float, default=0.2)
    parser.add_argument("--scored", choices=("candidates", "all"), default="candidates")
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    keep_freed_memory()  # as the command line does
    data = Yelp(arguments.data_dir, noise_ratio=0.2, negative_lifetime=arguments.negative_lifetime)
    epochs, hooked = (fit(data, arguments, device, profiler) for profiler in (None, CPUTimes()))
    table = Table("LightGCN on Yelp, one epoch", "seconds: median", "min", "max", "CPU seconds: median", "min", "max")
    middle = {}
    for acted, name in ((False, "without the callbacks"), (True, "with them")):
        columns = list(zip(*epochs.times[acted][2:], strict=True))
        middle[acted] = [median(values) for values in columns]
        figures = [f"{figure(values):.2f}" for values in columns for figure in (median, min, max)]
        table.add_row(name, *figures)
    hooks = Table("hooks", "CPU seconds per epoch: median", "of an epoch without the callbacks")
    spent = {name: median(hook.get(name, 0.0) for hook in hooked.hooks[2:]) for name in hooked.hooks[-1]}
    spent = {name: seconds for name, seconds in spent.items() if "Alternate" not in name}
    for name, seconds in sorted(spent.items(), key=lambda entry: -entry[1])[:5]:
        hooks.add_row(name.removeprefix("[Callback]"), f"{seconds:.3f}", f"{seconds / middle[False][1]:.1%}")
    hooks.add_row("all hooks", f"{sum(spent.values()):.3f}", f"{sum(spent.values()) / middle[False][1]:.1%}")
    Console().print(table, hooks)
    print(f"{len(data.train_users)} samples, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    clock, cpu = (middle[True][i] / middle[False][i] - 1 for i in (0, 1))
    print(f"the callbacks take {clock:+.1%} wall-clock time and {cpu:+.1%} CPU time (wanted: at most 5 %)")


if __name__ == "__main__":
    main()
