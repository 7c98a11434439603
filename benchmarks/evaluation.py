"""Time the full-ranking evaluation of Yelp's test users: our metrics against torchmetrics' retrieval metrics.

    python benchmarks/evaluation.py --data_dir data/yelp

Both compute Recall and NDCG at 10 from the same predictions, [users, items], with the seen items at -inf. torchmetrics
takes them flattened, with the index of the user of each prediction.
"""

import argparse
import warnings
from collections.abc import Callable

import torch
from devices import add_accelerator, chosen_device, timed
from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table
from torchmetrics.retrieval import RetrievalNormalizedDCG, RetrievalRecall

from llmhd_pl.datamodules import EvaluationBatches, Yelp
from llmhd_pl.memory import keep_freed_memory
from llmhd_pl.metrics import NDCG, Recall, rank_hits

Evaluation = Callable[[torch.Tensor, EvaluationBatches], tuple[float, float]]


def ours(predictions: torch.Tensor, batches: EvaluationBatches) -> tuple[float, float]:
    """Return Recall and NDCG at 10, computed batch by batch: mask the seen items, take the top K, add up."""
    recall, ndcg = Recall(10).to(predictions.device), NDCG(10).to(predictions.device)
    start = 0
    for batch in batches:
        block = predictions[start : start + len(batch["user"])].clone()
        start += len(block)
        hits, num_relevant = rank_hits(block, batch["seen"], batch["relevant"], 10)
        recall.update(hits, num_relevant)
        ndcg.update(hits, num_relevant)
    return float(recall.compute()), float(ndcg.compute())


def theirs(predictions: torch.Tensor, batches: EvaluationBatches) -> tuple[float, float]:
    """Return Recall and NDCG at 10 of torchmetrics, from all users at once, as the metrics compute them at the end.

    Calling them on 100 users at a time would be faster, but that is not what the metrics do.
    """
    predictions = predictions.clone()
    target = torch.zeros_like(predictions, dtype=torch.bool)
    start = 0
    for batch in batches:
        predictions[start + batch["seen"][0], batch["seen"][1]] = -torch.inf
        target[start + batch["relevant"][0], batch["relevant"][1]] = True
        start += len(batch["user"])
    indexes = torch.arange(len(predictions), device=predictions.device).repeat_interleave(predictions.shape[1])
    values = []
    for metric in (RetrievalRecall(top_k=10), RetrievalNormalizedDCG(top_k=10)):
        metric.update(predictions.flatten(), target.flatten(), indexes=indexes)
        values.append(float(metric.compute()))
        metric.reset()
    return values[0], values[1]


def main() -> None:
    """Time both on the same predictions, ours three times, and print the ratio."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/yelp", help="folder with Yelp in RLMRec's layout")
    add_accelerator(parser)
    arguments = parser.parse_args()
    device = chosen_device(arguments.accelerator)
    keep_freed_memory()  # as the command line does
    data = Yelp(arguments.data_dir)
    data.setup()
    data.trainer = Trainer(accelerator=device.type, devices=1, logger=False, enable_checkpointing=False)
    batches = data.test_dataloader()  # on the trainer's device
    users = sum(len(batch["user"]) for batch in batches)
    predictions = torch.rand(users, data.num_items, generator=torch.Generator().manual_seed(0)).to(device)
    ours(predictions, batches)  # warm-up
    results: dict[str, tuple[float, float]] = {}
    seconds: dict[str, float] = {}
    for name, evaluate, times in (("ours", ours, 3), ("torchmetrics", theirs, 1)):

        def evaluated(name: str = name, evaluate: Evaluation = evaluate) -> None:
            results[name] = evaluate(predictions, batches)

        seconds[name] = sum(timed(evaluated, device) for _ in range(times)) / times
    table = Table(f"{users} users x {data.num_items} items", "seconds", "Recall@10", "NDCG@10")
    for name, (recall, ndcg) in results.items():
        table.add_row(name, f"{seconds[name]:.2f}", f"{recall:.7f}", f"{ndcg:.7f}")
    Console().print(table)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"ours is {seconds['torchmetrics'] / seconds['ours']:.0f}x faster (wanted: 50x)")


if __name__ == "__main__":
    main()
