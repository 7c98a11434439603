"""The time of an audit.

    OMP_NUM_THREADS=2 python benchmarks/audit.py --interactions 1000000
    OMP_NUM_THREADS=2 python benchmarks/audit.py --interactions 1000000 --model sentence-transformers/all-MiniLM-L6-v2

Users draw items of their topic by popularity, and a fifth of their items at random. The texts are titles of words of
the topic. The time of the embeddings, which a cache keeps, is given apart.
"""

import argparse
import resource
from time import perf_counter

import numpy as np
from devices import add_accelerator, chosen_device

from llmhd_pl import EncoderScorer, LexicalScorer, Scorer
from llmhd_pl.audit import audit

TOPICS, WORDS = 100, 40


def interactions(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    """Users, items and texts: ten interactions for each user, and twenty for each item, on average."""
    rng = np.random.default_rng(seed)
    num_users, num_items = number // 10, number // 20
    topic = rng.integers(TOPICS, size=num_items)
    of_topic = [np.flatnonzero(topic == some) for some in range(TOPICS)]
    users = np.sort(rng.integers(num_users, size=2 * number))
    taste = rng.integers(TOPICS, size=num_users)[users]
    popular = rng.random(len(users)) ** 2
    items = np.array(
        [of_topic[some][int(place * len(of_topic[some]))] for some, place in zip(taste, popular, strict=True)]
    )
    chance = rng.random(len(users)) < 0.2
    items[chance] = rng.integers(num_items, size=int(chance.sum()))
    keys = np.unique(users * num_items + items)
    keys = np.sort(rng.permutation(keys)[:number])
    words = rng.integers(WORDS, size=(num_items, 4))
    texts = [
        {"title": " ".join(f"word{topic[item]}x{word}" for word in words[item]), "maker": f"maker {topic[item]}"}
        for item in range(num_items)
    ]
    return keys // num_items, keys % num_items, texts


def main() -> None:
    """Time one audit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--model", help="a sentence encoder, which is aligned; by default LexicalScorer judges")
    add_accelerator(parser)
    options = parser.parse_args()
    device = chosen_device(options.accelerator)
    users, items, texts = interactions(options.interactions)
    scorer: Scorer = LexicalScorer()
    if options.model is not None:
        scorer = EncoderScorer(options.model, cache_dir=None)
    embedding = 0.0
    if isinstance(scorer, EncoderScorer):
        from llmhd_pl.llm.prompts import item_profile

        start = perf_counter()
        scorer.embeddings([item_profile(fields) for fields in texts])
        embedding = perf_counter() - start
    start = perf_counter()
    found = audit(scorer, texts, users, items)
    seconds = perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{type(scorer).__name__} on {device}, {len(users):,} interactions, {len(np.unique(users)):,} users, "
        f"{len(texts):,} items: {found.share.size:,} judged in {seconds:.0f} s, embedding {embedding:.0f} s, "
        f"{memory:.1f} GB"
    )


if __name__ == "__main__":
    main()
