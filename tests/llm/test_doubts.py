import pytest

from llmhd_pl.llm.doubts import FEW, contradiction, indifference, one_sidedness, silence


@pytest.mark.parametrize(
    ("agreed", "compared", "told"), [(0, FEW - 1, False), (14, FEW, False), (13, FEW, True), (0, 0, False)]
)
def test_contradictions(agreed: int, compared: int, told: bool) -> None:
    message = contradiction(agreed, compared, "{} of {} pairs changed sides")
    assert (message is not None) == told
    assert message is None or "the scorer contradicts itself: 7 of 20 pairs changed sides." in message


@pytest.mark.parametrize(
    ("found", "answered", "told"),
    [(19, FEW - 1, None), (1, 50, "noise"), (2, 50, None), (49, 50, "right"), (48, 50, None), (0, 0, None)],
)
def test_answers_that_all_say_the_same(found: int, answered: int, told: str | None) -> None:
    message = one_sidedness(found, answered, "were judged hard")
    assert (message is None) == (told is None)
    assert message is None or (f"nearly all of them are {told}" in message and "were judged hard" in message)


@pytest.mark.parametrize(
    ("lowest", "fives", "sixes", "told"), [(0, 10, 9, False), (0, 10, 10, True), (2, 50, 48, True), (3, 50, 47, False)]
)
def test_scores_in_the_middle(lowest: int, fives: int, sixes: int, told: bool) -> None:
    message = indifference([lowest, 0, 0, 0, fives, sixes, 0, 0, 0, 0])
    assert (message is not None) == told
    assert message is None or f"{fives + sixes} of {lowest + fives + sixes} scores are 5 or 6" in message


def test_silence() -> None:
    assert silence(FEW - 1, FEW - 1, "") is None and silence(20, 10, "") is None
    message = silence(20, 11, "")
    assert message is not None and message.startswith("11 of 20 pairs got no score") and message.endswith("asks for.")
    assert "one that is not: 'No.'." in str(silence(20, 20, "No."))
    assert len(str(silence(20, 20, "word " * 1000))) < 700


def test_silence_names_its_true_cause() -> None:
    message = str(silence(20, 20, "", "http://judge/v1: status 503: busy"))
    assert "could not be asked (http://judge/v1: status 503: busy)" in message and "asked again" in message
    assert "prompt" not in message and "no text" not in message
    assert "one that is not: 'No.'." in str(silence(20, 20, "No.", "busy"))
