"""The floating point format in which a machine is fast."""

from typing import Any, Literal, get_args

import torch

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


def check_dtype(dtype: str) -> None:
    """Check the name of a format.

    Args:
        dtype: The name.

    Raises:
        ValueError: If it is unknown.
    """
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype is {dtype!r}; it must be 'auto', 'bfloat16', 'float16' or 'float32'.")


def resolved_dtype(dtype: Dtype, device: str | None = None) -> torch.dtype:
    """Return the format of that name, or for "auto" the one in which the machine is fast.

    Args:
        dtype: The name.
        device: "cuda" or "cpu". None takes "cuda" if there is a device.
    """
    named: torch.dtype = fast_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    return named


def fast_dtype(device: str | None = None) -> torch.dtype:
    """Return bfloat16 if the hardware multiplies it; otherwise float16 on a GPU and float32 on a CPU.

    Without hardware support bfloat16 is emulated, which on AVX2 is ten times slower than float32. GPUs before Ampere
    have float16 instead, at several times the speed of float32.

    Args:
        device: "cuda" or "cpu". None takes "cuda" if there is a device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    cpu: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else torch.float32
