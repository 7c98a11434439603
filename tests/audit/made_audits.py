"""Audits that were not made by a judge."""

import numpy as np

from llmhd_pl.audit.findings import Audit, Share
from llmhd_pl.datamodules import InteractionDataModule


def made_audit(data: InteractionDataModule, chances: np.ndarray) -> Audit:
    """What an audit might say about data that is set up, if it finds these chances, [n]; NaN is not judged."""
    users, items = data.train_users.numpy(), data.train_items.numpy()
    judged = ~np.isnan(chances)
    scores, p_values = np.where(judged, 5, np.nan).astype(np.float32), np.where(judged, 0.5, np.nan)
    share = Share("all", len(users), 0.1, 0.0, 0.2)
    rest = share, 0.8, True, len(users), np.ones(len(users))
    return Audit("somewhere", "LexicalScorer", users, items, scores, p_values, chances, *rest)
