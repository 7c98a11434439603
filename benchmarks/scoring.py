"""Pairs per second of a language model: ours, one ``generate`` per pair, and the paper's way, with the same model.

    python benchmarks/scoring.py

The model is a random Llama with 300M parameters. Preferences have 400 tokens, items have 40, and each user is asked
about 20 items. "one generate per pair" reads the whole prompt for one token, "written as in the paper" for the 8 tokens
of ``<s>N</s>``. Ours is all of ``QuantizedLLM.score``, including tokenising, reading the answers, and the cache. The
ways take turns, so that a machine that changes its speed affects all of them, and every round has its own users.
"""

import argparse
import random
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from devices import add_accelerator, chosen_device, timed
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmhd_pl.llm.dtypes import fast_dtype
from llmhd_pl.llm.pretrained import Quantization
from llmhd_pl.llm.prompts import Prompts
from llmhd_pl.llm.quantized import QuantizedLLM

DOMAIN, PREFERENCE_TOKENS, ITEM_TOKENS, ITEMS = "books", 400, 40, 20
ANSWER_TOKENS = 8  # <s>N</s> and the end of text, if the tags are no tokens of their own
SLOW_PAIRS = 4  # the pairs of a round for the two slow ways
WANTED = (6, 10)  # how many times faster than the two slow ways ours should be

RNG = random.Random(0)
WORDS = ["".join(RNG.choice("bdfgklmnprstv") + RNG.choice("aeiou") for _ in range(3)) for _ in range(3000)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that knows the words of the prompts and texts, as a real one knows English."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*Prompts.load(DOMAIN).texts.values(), *(f" {word}" for word in WORDS)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>"
    )


def save_model(folder: str, layers: int) -> int:
    """Save a random model and its tokenizer as the hub would have them, and return the number of parameters."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def text(scorer: QuantizedLLM, tokens: int) -> str:
    """Return random words with about so many tokens."""
    words = RNG.choices(WORDS, k=tokens)
    while scorer.count_tokens(" ".join(words)) > tokens:
        words.pop()
    return " ".join(words)


def measure(
    folder: str, quantization: Quantization, device: torch.device, rounds: int, per_round: int
) -> dict[str, list[float]]:
    """Return the pairs per second of the four ways, one value per round."""
    cache = str(Path(folder) / f"{quantization}.sqlite")

    def make_scorer() -> QuantizedLLM:
        given: dict[str, Any] = {"quantization": quantization, "device": device.type, "prompts": DOMAIN, "cache": cache}
        return QuantizedLLM(folder, calibrate=False, **given)

    ours = make_scorer()
    items = [{"title": text(ours, ITEM_TOKENS)} for _ in range(ITEMS)]
    ours.prepare(items, torch.empty(0, 2, dtype=torch.int64))
    texts = [text(ours, PREFERENCE_TOKENS) for _ in range((rounds + 1) * per_round)]
    preferences: dict[int, str] = dict(enumerate(texts))
    lm = ours.causal_lm
    endings = [ours.prompts.score_suffix(item["title"]) for item in items]

    def generate(user: int, tokens: int) -> None:
        for ending in endings[:SLOW_PAIRS]:
            prompt = ours.prompts.score_prefix(preferences[user]) + ending
            ids = torch.tensor([[*lm.before, *lm.encode(prompt), *lm.after]], device=device)
            lm.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,  # a random model may end its answer at once
                do_sample=False,
                pad_token_id=lm.tokenizer.pad_token_id,
            )

    def pairs(users: list[int]) -> Tensor:
        return torch.tensor([(user, item) for user in users for item in range(ITEMS)])

    speeds: dict[str, list[float]] = {"one generate per pair": [], "written as in the paper": [], "ours": []}
    for number in range(rounds + 1):
        users = list(range(number * per_round, (number + 1) * per_round))
        round_speeds = {
            "one generate per pair": SLOW_PAIRS / timed(lambda: generate(users[0], 1), device),  # noqa: B023
            "written as in the paper": SLOW_PAIRS / timed(lambda: generate(users[0], ANSWER_TOKENS), device),  # noqa: B023
            "ours": per_round * ITEMS / timed(lambda: ours.score(preferences, pairs(users)), device),  # noqa: B023
        }
        if number:  # the first one warms up
            for way, speed in round_speeds.items():
                speeds[way].append(speed)

    again = make_scorer()
    again.prepare(items, torch.empty(0, 2, dtype=torch.int64))
    everything = pairs(list(preferences))
    speeds["ours, answered by the cache"] = [
        len(everything) / timed(lambda: again.score(preferences, everything), device)
    ]
    count = again.usage.templates["T_score"]
    if (count.calls, count.cache_hits, "causal_lm" in vars(again)) != (0, len(everything), False):
        raise RuntimeError(f"The cache was warm, and the model was asked: {count}.")
    return speeds


def main() -> None:
    """Measure both kinds of weights, and print the speeds and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_accelerator(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--users",
        type=int,
        default=8,
        help="the users of a round; the role and the scale are read once for all of them",
    )
    parser.add_argument("--layers", type=int, default=20, help="20 layers are 300M parameters")
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    transformers.utils.logging.disable_progress_bar()
    table = Table("weights", "way", "pairs/s: median", "min", "max", "ours is", "wanted", title="benchmarks/scoring.py")
    with tempfile.TemporaryDirectory() as folder:
        parameters = save_model(folder, arguments.layers)
        dtype = str(fast_dtype(device.type)).removeprefix("torch.")
        kinds: dict[str, Quantization] = {dtype: "none", "NF4": "nf4"}
        for name, quantization in kinds.items():
            speeds = measure(folder, quantization, device, arguments.rounds, arguments.users)
            for way, wanted in zip(speeds, (*WANTED, None, None), strict=True):
                values = (median(speeds[way]), min(speeds[way]), max(speeds[way]))
                ratio = f"{median(speeds['ours']) / values[0]:.1f}x" if wanted else ""
                table.add_row(name, way, *(f"{value:,.1f}" for value in values), ratio, f"{wanted}x" if wanted else "")
            table.add_section()
    Console().print(table)
    print(f"{parameters / 1e6:.0f}M parameters, {device}, {torch.get_num_threads()} threads,", end=" ")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
