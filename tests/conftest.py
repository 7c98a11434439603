import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import settings

# No deadline: a busy machine is no failure. No database: a test draws the same whatever ran before.
settings.register_profile("busy machine", deadline=None, database=None)
settings.load_profile("busy machine")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def rlmrec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in RLMRec's layout: 40 users, 60 items; user 0 has no interaction, item 0 no text."""
    folder = tmp_path_factory.mktemp("rlmrec")
    rng = np.random.default_rng(0)
    cells = rng.permutation(np.arange(60, 40 * 60))[:700]
    for name, part in (("trn", cells[:420]), ("val", cells[420:560]), ("tst", cells[560:])):
        matrix = sp.coo_matrix((np.ones(len(part)), (part // 60, part % 60)), shape=(40, 60))
        (folder / f"{name}_mat.pkl").write_bytes(pickle.dumps(matrix))
    lines = ['{"item": 0}'] + [f'{{"item": {item}, "title": "Item {item}"}}' for item in range(1, 60)]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def atomic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RecBole's atomic files: 30 users, 40 items, ratings 1 to 5, timestamps."""
    folder = tmp_path_factory.mktemp("atomic")
    rng = np.random.default_rng(0)
    rows = [
        f"u{cell // 40}\ti{cell % 40}\t{rng.integers(1, 6)}\t{rng.integers(1000)}"
        for cell in rng.permutation(30 * 40)[:600]
    ]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "tiny.inter").write_text("\n".join([header, *rows]) + "\n")
    items = [f"i{item}\tFilm {item}" for item in range(40)]
    (folder / "tiny.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *items]) + "\n")
    return folder
