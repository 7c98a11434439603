"""The scale of the language model's scores: 1 (does not fit the user) to 10 (fits)."""

FITTING = 5.5
"""The middle of the scale: from here on an item fits."""

CALIBRATION_USERS = 100
"""The users whose pairs a language model's scores are calibrated on."""
CALIBRATION_PAIRS = 2
"""The observed pairs of each of them, and as many random ones."""

AUDIT_INTERACTIONS = 500
"""The interactions that an audit asks a judge about that counts its questions."""
AUDIT_REFERENCES = 4
"""The other users that it asks about with each of them."""
