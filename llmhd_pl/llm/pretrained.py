"""Loads causal language models of Hugging Face: from the hub, from a folder, or from a single gguf file."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from llmhd_pl.llm.digest import file_digest
from llmhd_pl.llm.dtypes import Dtype, resolved_dtype

# Weights, settings, tokenizer and chat template.
_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")

Quantization = Literal["nf4", "int8", "none"]


def check_quantization(quantization: str) -> None:
    """Check the name of a quantisation.

    Args:
        quantization: The name.

    Raises:
        ValueError: If it is unknown.
    """
    if quantization not in get_args(Quantization):
        raise ValueError(f"quantization is {quantization!r}; it must be 'nf4', 'int8' or 'none'.")


def is_gguf(model: str) -> bool:
    """Return whether a model is given as a single gguf file.

    Args:
        model: A hub id, or the path of a folder or a file.
    """
    return model.lower().endswith(".gguf")


def model_digest(model: str) -> str | None:
    """Return what identifies the files of a model: their names, and the first 16 digits of their SHA-256.

    Args:
        model: A hub id, or the path of a folder or a gguf file.

    Returns:
        The names and digests, or None for a hub id, which stands for itself.
    """
    path = Path(model)
    if is_gguf(model) and path.is_file():
        return f"gguf:{file_digest(path)}"
    if path.is_dir():
        files = sorted(file for ending in _MODEL_FILES for file in path.glob(f"*{ending}"))
        return " ".join(f"{file.name}:{file_digest(file)}" for file in files)
    return None


def load_config(model: str, revision: str | None = None) -> Any:
    """Load the configuration of a language model, without its weights.

    Args:
        model: A hub id, or the path of a folder or a gguf file.
        revision: A branch, tag or commit on the hub.

    Raises:
        OSError: If it cannot be loaded.
        ImportError: If the model is a gguf file and the package ``gguf`` is not installed.
    """
    from transformers import AutoConfig

    with _named(model):
        return AutoConfig.from_pretrained(**_source(model, revision))


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a language model.

    Args:
        model: A hub id, or the path of a folder or a gguf file.
        revision: A branch, tag or commit on the hub.

    Raises:
        OSError: If it cannot be loaded.
        ImportError: If the model is a gguf file and the package ``gguf`` is not installed.
    """
    from transformers import AutoTokenizer

    with _named(model):
        return AutoTokenizer.from_pretrained(**_source(model, revision))


def load_causal_lm(
    model: str, revision: str | None, quantization: Quantization, device: str, dtype: Dtype = "auto"
) -> Any:
    """Load a causal language model in eval mode.

    What is quantised already is loaded as it is, whatever ``quantization`` says: a checkpoint whose configuration says
    how (gpt-oss in MXFP4, FP8, AWQ, GPTQ, bitsandbytes), in its own format. The weights of a gguf file are unpacked.

    Args:
        model: A hub id, or the path of a folder or a gguf file.
        revision: A branch, tag or commit on the hub.
        quantization: "nf4" (4 bit, double quantisation), "int8" or "none".
        device: Where the model runs.
        dtype: The format of what is not quantised; "auto" is the one in which the machine is fast (``fast_dtype``).

    Raises:
        OSError: If it cannot be loaded.
        ImportError: If a package is missing that the format of the model needs; the message names it.
    """
    import transformers
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    wanted: torch.dtype | str = resolved_dtype(dtype, device)
    method: Any = None
    if is_gguf(model):
        # Said explicitly, because otherwise the way depends on whether a kernel can be fetched from the hub. Releases
        # that do not know the class always unpack.
        unpacked = getattr(transformers, "GgufConfig", None)
        method = None if unpacked is None else unpacked(dequantize=True)
    elif getattr(load_config(model, revision), "quantization_config", None) is not None:
        wanted = "auto" if dtype == "auto" else wanted
    elif quantization == "nf4":
        method = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=wanted,
        )
    elif quantization == "int8":
        # Otherwise it says "inputs will be cast" for every layer and call.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        method = BitsAndBytesConfig(load_in_8bit=True)
    with _named(model):
        loaded = AutoModelForCausalLM.from_pretrained(
            # No key at all if there is no method: None would hide that a checkpoint is quantised.
            **_source(model, revision) | ({} if method is None else {"quantization_config": method}),
            dtype=wanted,
            device_map={"": device},
        ).eval()
    if device == "cpu":
        for module in loaded.modules():
            # With it, bitsandbytes repacks the weights for a kernel that makes single tokens 6 times faster and whole
            # prompts 10 times slower (measured on AVX-512 with AMX). Here nearly all tokens are in prompts.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return loaded


def _source(model: str, revision: str | None) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that say where a model is."""
    if is_gguf(model):
        path = Path(model)
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": model, "revision": revision or "main"}


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Add the model's name and the remedy to errors that are raised while it is loaded."""
    if is_gguf(model) and not Path(model).is_file():
        raise FileNotFoundError(f"There is no file {model!r}. Give the path of a gguf file on this machine.")
    try:
        yield
    except ImportError as error:
        if is_gguf(model) and "gguf" in str(error).lower():
            raise ImportError("A gguf file needs the package gguf: pip install gguf.") from error
        raise ImportError(f"The language model {model!r} needs a package that is not installed: {error}") from error
    except Exception as error:
        if is_gguf(model):
            raise OSError(
                f"The gguf file {model!r} could not be loaded ({error}). If transformers does not know its "
                "architecture or its format, serve it by llama.cpp (llama-server -m FILE) and ask it through "
                "EndpointScorer."
            ) from error
        if isinstance(error, OSError | ValueError):
            raise OSError(
                f"The language model {model!r} could not be loaded ({error}). On a machine without a model hub, give "
                "the path of a folder or of a gguf file; EncoderScorer and LexicalScorer judge without a language "
                "model."
            ) from error
        raise
