"""The benchmarks that take a device, and the list that is run on a GPU."""

import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import devices
import gpu
import gpu_fits

CPU = torch.device("cpu")
NO_DEVICE = {"loading.py", "prepare.py", "llm_calls.py"}
"""The benchmarks in which a device plays no part; docs/performance.md says why."""


def test_benchmarks_take_an_accelerator_where_a_device_plays_a_part() -> None:
    sources = {path.name: path.read_text() for path in Path(gpu.__file__).parent.glob("*.py")}
    commands = {name: source for name, source in sources.items() if "ArgumentParser(" in source}
    taken = ("add_accelerator(parser)", "chosen_device(")
    assert {name for name, source in commands.items() if not all(part in source for part in taken)} == NO_DEVICE


def test_an_accelerator_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="PyTorch finds no GPU here"):
        devices.chosen_device("cuda")


def fails(device: torch.device) -> str:
    raise AssertionError("too far apart: [1]")


def test_a_failing_check_is_shown_and_the_others_still_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [gpu.Check("one", fails), gpu.Check("two", str), gpu.Check("three", str, 1), gpu.Check("four", str, 2)]
    monkeypatch.setattr(gpu, "set_up", lambda: None)  # which is for a process of its own
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for it to be as it was afterwards
    for chosen, status in ((checks, 1), (checks[1:], 0)):
        monkeypatch.setattr(gpu, "all_checks", lambda millions, chosen=chosen: chosen)
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--accelerator", "cpu"])
        with pytest.raises(SystemExit) as ended:
            gpu.main()
        assert ended.value.code == status
        shown = capsys.readouterr().out
        assert ("AssertionError: too far apart: [1]" in shown) == (status == 1)
        rows = [re.sub(r"\W+", " ", line).strip() for line in shown.splitlines()]
        others = [row for row in rows if row.startswith(("two", "three", "four"))]
        assert others == [
            "two ok cpu",
            "three skipped needs a GPU",
            "four skipped needs two GPUs",
        ]


def test_checks_pass_on_the_cpu() -> None:
    names = [check.name for check in gpu.all_checks(1)]
    assert len(set(names)) == len(names)
    assert gpu_fits.as_on_the_cpu(CPU, "MF", "LLMHD").startswith("loss 0.")
    assert gpu_fits.resumed(CPU) == "the same to the last digit"
    assert float(gpu.product_is_right(CPU).removeprefix("within ")) < 1e-4


def test_figures_that_are_too_far_apart_are_an_error() -> None:
    assert gpu_fits.near((0.5, 0.1), (0.5004, 0.105), 1e-3, 0.01)
    for here in ((0.501, 0.1), (0.5, 0.12), (float("nan"), 0.1)):
        with pytest.raises(AssertionError, match="too far apart"):
            gpu_fits.near(here, (0.5, 0.1), 1e-3, 0.01)
