import pytest

from tests.campaign.__main__ import cases_of, try_case


@pytest.mark.parametrize("group", ["files", "caches", "servers"])
def test_every_fault_of_the_campaign_ends_as_documented(group: str) -> None:
    errors = [f"{case.kind}: {case.name}\n{error}" for case in cases_of(group) if (error := try_case(case)[1])]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize(("group", "at_least"), [("files", 100), ("caches", 40), ("servers", 60), ("kills", 20)])
def test_the_campaign_is_as_large_as_documented(group: str, at_least: int) -> None:
    names = [(case.kind, case.name) for case in cases_of(group)]
    assert len(set(names)) == len(names) >= at_least
