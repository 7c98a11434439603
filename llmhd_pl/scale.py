"""The scale of the language model's scores: 1 (does not fit the user) to 10 (fits)."""

FITTING = 5.5
"""The middle of the scale: from here on an item fits."""
