import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.campaign import http_server
from tests.campaign.__main__ import GROUPS, cases_of, try_case


@pytest.mark.parametrize("group", ["files", "caches", "servers"])
def test_every_fault_of_the_campaign_ends_as_documented(group: str) -> None:
    errors = [f"{case.kind}: {case.name}\n{error}" for case in cases_of(group) if (error := try_case(case)[1])]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize(("group", "at_least"), [("files", 100), ("caches", 40), ("servers", 60), ("kills", 20)])
def test_the_campaign_is_as_large_as_documented(group: str, at_least: int) -> None:
    names = [(case.kind, case.name) for case in cases_of(group)]
    assert len(set(names)) == len(names) >= at_least


@pytest.mark.parametrize("group", GROUPS)
def test_the_table_in_the_docs_is_that_of_the_campaign(group: str) -> None:
    text = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    rows = [line.split(" | ")[1:3] for line in text.splitlines() if line.startswith(f"| {group} |")]
    assert dict(rows) == {kind: str(n) for kind, n in Counter(case.kind for case in cases_of(group)).items()}


def test_a_connection_that_asks_nothing_leaves_no_thread_behind() -> None:
    """Such a thread once read the end of its connection for ever, and took a core from all tests that followed."""
    before = threading.active_count()
    with http_server.serving(lambda number, asked: b"") as server:
        host, port = server.address.split(":")
        for sent in (b"", b"POST / HTTP/1.1\r\nHost: a"):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
