"""What an audit means, in sentences."""

from llmhd_pl.audit.findings import Audit

LITTLE = 0.05
"""The share of chance below which denoising gained next to nothing in what we measured (docs/results/no-gain.md)."""


def advice(found: Audit) -> list[str]:
    """Return what an audit means, in sentences, the most important one first.

    Args:
        found: The audit; its own advice is not looked at.
    """
    sentences = []
    if not found.can_tell:
        sentences += [
            f"This judge cannot tell: it prefers the user of an interaction to another user {found.auc:.0%} of the "
            f"time (a coin: 50%), and does not recognise everything that is not chance. Up to {found.share.high:.0%} "
            "may be chance, and it may as well be nothing.",
            "Either it knows too little, or your users are too alike for anybody to be recognised by an item: where "
            "each likes two of five genres, even a judge that knows everything prefers the right user at most 80% of "
            "the time. If it knows too little, give the items more text, or take another judge: LexicalScorer compares "
            "words, EncoderScorer what they mean and what your users combine. How well it tells planted noise apart, "
            "llmhd judge shows in its line 'train'; if it can tell there, give the drop rate as a number.",
        ]
    elif found.share.high < LITTLE:
        sentences.append(
            f"Denoising is unlikely to help: less than {LITTLE:.0%} looks like chance, and part of that is visits that "
            "are only untypical. Where no noise was added to our data, no method gained more than 3 %."
        )
    else:
        sentences.append(
            f"About {found.share.share:.0%} look like chance. It is an upper bound: visits that are only untypical of "
            "their user look the same. Whether leaving them out gains anything, validation must say: untypical visits "
            "may be what a recommender should learn."
        )
    missing = 1 - found.share.size / max(1, len(found.users))
    if missing > 0.01:
        sentences.append(
            f"{missing:.0%} of the interactions were not judged: their items have no text, their users have no other "
            "item, or they are not in the sample. The share says nothing about them."
        )
    return sentences
