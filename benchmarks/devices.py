"""The device that a benchmark runs on, clocks that wait for it, and the memory of it."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch


def add_accelerator(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark take ``--accelerator``."""
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu", help="what the benchmark runs on")


def chosen_device(accelerator: str) -> torch.device:
    """Return the device of an accelerator. With "cpu", scorers that take a GPU where there is one find none.

    Raises:
        SystemExit: If the machine has none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--accelerator cuda: PyTorch finds no GPU here. Leave the option out to run on the CPU.")
    if accelerator == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return torch.device(accelerator)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, including what it left to the device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> int:
    """Return the largest memory so far, in bytes: of the tensors on a GPU, or what was resident of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # What getrusage says includes the process that began this one.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
