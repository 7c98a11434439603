"""Which floating point numbers a machine is fast with."""

from typing import Any

import torch


def fast_dtype(device: str | None = None) -> torch.dtype:
    """bfloat16 where the hardware multiplies it; elsewhere it is emulated, ten times slower than float32 on AVX2.

    Args:
        device: "cuda" or "cpu"; None: "cuda" where there is one.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        cpu: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32
