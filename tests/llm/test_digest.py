from llmhd_pl.llm.digest import digest


def test_the_borders_of_the_parts_count() -> None:
    parts = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"", b"abc"), (b"abc", b"")]
    assert len({digest(*each) for each in parts}) == len(parts)


def test_it_stays_what_it_is() -> None:
    """The names of the files in EncoderScorer's cache depend on it."""
    assert digest(b"ab", b"c") == "4826ed043ab3cdec576d8541fa5d5a80"
