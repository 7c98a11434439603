"""The floating point format in which a machine is fast."""

from typing import Any

import torch


def fast_dtype(device: str | None = None) -> torch.dtype:
    """Return bfloat16 if the hardware multiplies it, otherwise float32.

    Without hardware support bfloat16 is emulated, which on AVX2 is ten times slower than float32.

    Args:
        device: "cuda" or "cpu". None takes "cuda" if there is a device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        cpu: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32
