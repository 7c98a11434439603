"""SyntheticCatalog: a book shop with known tastes, so that "hard kept, noise dropped" can be measured."""

import numpy as np
import torch

from llmhd_pl.datamodules.arguments import check_whole
from llmhd_pl.datamodules.base import InteractionDataModule
from llmhd_pl.datamodules.interactions import EASY, HARD, NOISE, Interactions
from llmhd_pl.datamodules.noise import NoiseSource

TOPICS: dict[str, str] = {
    "gardening": "trellis compost seedling orchard pruning greenhouse perennial mulch rosebush hedge soil harvest",
    "astronomy": "telescope nebula comet galaxy eclipse orbit supernova planet meteor observatory starlight quasar",
    "sailing": "rigging harbour regatta mast anchor tide skipper yacht compass lighthouse knot windward",
    "baking": "sourdough pastry oven dough yeast croissant frosting baguette flour brioche meringue tart",
    "chess": "gambit endgame checkmate rook opening bishop grandmaster castling pawn stalemate knight tournament",
    "crime": "detective alibi murder suspect forensic inspector witness clue blackmail verdict heist motive",
    "romance": "wedding courtship heartbreak suitor proposal ballroom longing kiss engagement letter passion bride",
    "dragons": "wyvern sorcerer spellbook quest goblin enchantment prophecy kingdom wizard amulet elf throne",
    "robots": "android circuit cyborg automation sensor algorithm replicant servo drone machine hologram starship",
    "cycling": "peloton bicycle sprint saddle derailleur velodrome breakaway cobblestone tandem gravel climb pedal",
    "painting": "watercolour canvas fresco easel portrait pigment brushstroke gallery landscape charcoal mural palette",
    "finance": "dividend portfolio bond inflation broker pension hedging audit ledger mortgage equity tax",
    "parenting": "toddler bedtime nursery teenager tantrum lullaby babysitter preschool sibling homework cradle potty",
    "horror": "ghost vampire crypt haunting werewolf demon asylum graveyard curse seance nightmare coffin",
    "warfare": "battalion siege trench general cavalry armistice regiment fortress ambush artillery campaign bayonet",
    "wildlife": "otter badger migration habitat falcon wolf savanna burrow heron elephant reef predator",
}
"""The words of each topic. The title and the description of a book are written from the words of its topic."""

TITLES = (
    "The {0} and the {1}",
    "A Year of {0}",
    "{0}, {1} and Me",
    "The Last {0}",
    "Secrets of the {0}",
    "On {0} and {1}",
)
"""Templates of the titles."""
DESCRIPTIONS = (
    "A book about the {0}, the {1} and the {2}, told by somebody who knows the {3}.",
    "From {0} to {1}: everything on the {2}, with a chapter on the {3}.",
    "It begins with a {0}. Then come the {1}, the {2} and, at last, the {3}.",
    "For readers who love the {0}. With notes on {1}, {2} and {3}.",
)
"""Templates of the descriptions."""


class SyntheticCatalog(InteractionDataModule):
    """Generated readers and books, with a known reason for every interaction.

    A reader has one or two main tastes and a minor taste. The interactions of a reader are books of the main tastes
    (*easy*), books of the minor taste (*hard*: correct, but unlike the rest of the history) and misclicks (*noise*:
    bestsellers outside all three tastes, in the training split only). After ``setup``, ``train_kinds`` is 0 for easy, 1
    for hard and 2 for noise, and ``noise_mask`` marks the noise. The same arguments give the same data.

    Args:
        num_readers: The number of users.
        num_books: The number of items, at least 10 per topic.
        num_topics: The number of topics, 4 to 16.
        books_per_reader: The mean number of correct interactions per reader, over all three splits.
        hard_share: The share of the minor taste in the correct interactions of a reader.
        misclick_share: The number of misclicks, as a share of the correct training interactions.
        batch_size: The number of samples per optimiser step, over all devices together.
        eval_batch_size: The number of users ranked at once on each device.
        noise_ratio: The amount of noise added on top of the misclicks, as a share of the training interactions.
        noise_source: Only "random", because nobody rates books here.
        negative_lifetime: The number of epochs for which a negative stays with its sample.
        seed: The seed of the catalog, the noise, the order and the negatives.
        num_negatives: The number of items that are drawn for each sample; see ``InteractionDataModule``.

    Raises:
        ValueError: If an argument is out of range.
    """

    topics: np.ndarray
    """The topic of each book, int64 [num_books]; set by ``load``."""
    tastes: np.ndarray
    """The two main tastes of each reader, equal for a reader with one, and the minor taste, int64 [num_readers, 3]; set
    by ``load``."""

    def __init__(
        self,
        num_readers: int = 1000,
        num_books: int = 800,
        num_topics: int = 16,
        books_per_reader: int = 30,
        hard_share: float = 0.2,
        misclick_share: float = 0.2,
        batch_size: int = 1024,
        eval_batch_size: int = 1024,
        noise_ratio: float = 0.0,
        noise_source: NoiseSource = "random",
        negative_lifetime: int = 5,
        seed: int = 0,
        num_negatives: int = 1,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, noise_ratio, noise_source, negative_lifetime, seed, num_negatives)
        for name, number in (
            ("num_readers", num_readers),
            ("num_books", num_books),
            ("num_topics", num_topics),
            ("books_per_reader", books_per_reader),
        ):
            check_whole(name, number, 0)
        if not 4 <= num_topics <= len(TOPICS):
            raise ValueError(f"num_topics is {num_topics}; it must be 4 to {len(TOPICS)}.")
        if num_books < 10 * num_topics:
            raise ValueError(f"num_books is {num_books}; {num_topics} topics need at least {10 * num_topics}.")
        if num_readers < 1 or books_per_reader < 5:
            raise ValueError("num_readers must be at least 1 and books_per_reader at least 5.")
        for name, share in (("hard_share", hard_share), ("misclick_share", misclick_share)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}; it must be at least 0 and below 1.")
        self.num_readers, self.num_books, self.num_topics = num_readers, num_books, num_topics
        self.books_per_reader = books_per_reader
        self.hard_share, self.misclick_share = hard_share, misclick_share

    def load(self) -> Interactions:
        """Generate the catalog and set ``topics`` and ``tastes``."""
        rng = np.random.default_rng([self.seed, 0xB00C])
        self.topics = rng.permutation(np.arange(self.num_books) % self.num_topics)
        popularity = rng.permutation((np.arange(self.num_books) + 10.0) ** -0.8)
        self.tastes = np.argsort(rng.random((self.num_readers, self.num_topics)), axis=1)[:, :3]
        one_taste = rng.random(self.num_readers) < 0.5
        self.tastes[one_taste, 1] = self.tastes[one_taste, 0]

        splits: list[list[tuple[int, int, int]]] = [[], [], []]  # (user, item, kind) of train, valid, test
        for user, (first, second, minor) in enumerate(self.tastes):
            main_books = np.flatnonzero((self.topics == first) | (self.topics == second))
            minor_books = np.flatnonzero(self.topics == minor)
            # No reader has read all books of a taste, so that something is left to recommend.
            right = 5 + rng.poisson(self.books_per_reader - 5)
            hard = min(round(self.hard_share * right), len(minor_books) // 2)
            easy = min(right - hard, 2 * len(main_books) // 3)
            read = [(user, int(book), EASY) for book in _popular(rng, main_books, popularity, easy)]
            read += [(user, int(book), HARD) for book in _popular(rng, minor_books, popularity, hard)]
            held_out = len(read) // 5
            for place, row in enumerate(rng.permutation(len(read))):
                splits[1 if place < held_out else 2 if place < 2 * held_out else 0].append(read[row])
            others = np.flatnonzero(~np.isin(self.topics, (first, second, minor)))
            misclicks = min(rng.poisson(self.misclick_share * (len(read) - 2 * held_out)), len(others) // 2)
            # People misclick on bestsellers: squared, so that misclicks are more concentrated than what is read.
            splits[0] += [(user, int(book), NOISE) for book in _popular(rng, others, popularity**2, misclicks)]

        train, valid, test = (torch.tensor(rows, dtype=torch.int64).reshape(-1, 3) for rows in splits)
        return Interactions(
            name="SyntheticCatalog",
            num_users=self.num_readers,
            num_items=self.num_books,
            train=train[:, :2],
            valid=valid[:, :2],
            test=test[:, :2],
            train_kinds=train[:, 2].to(torch.int8),
            items=[self.book(rng, int(topic)) for topic in self.topics],
        )

    def book(self, rng: np.random.Generator, topic: int) -> dict[str, str]:
        """Write the text of one book. Override it to change what the books say.

        Args:
            rng: The random generator of the catalog.
            topic: The book's topic, 0 to ``num_topics - 1``, in the order of ``TOPICS``.

        Returns:
            The ``title`` and the ``description`` of the book.
        """
        words = rng.choice(list(TOPICS.values())[topic].split(), 6, replace=False)
        title = TITLES[rng.integers(len(TITLES))].format(*(word.capitalize() for word in words[:2]))
        return {"title": title, "description": DESCRIPTIONS[rng.integers(len(DESCRIPTIONS))].format(*words[2:])}


def _popular(rng: np.random.Generator, books: np.ndarray, popularity: np.ndarray, count: int) -> np.ndarray:
    """Draw books without replacement, with a probability proportional to their popularity."""
    weights = popularity[books]
    return rng.choice(books, count, replace=False, p=weights / weights.sum())
