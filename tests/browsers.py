"""Pages opened in Chromium, as people open them: from the disk."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Nothing of the browser's own may need a network, and a container has no sandbox and no GPU.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's Chromium, or the one that ``playwright install chromium`` has brought; without any, a skip."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright opens the pages in a browser")
    system = shutil.which("chromium")
    with playwright.sync_playwright() as running:
        if system is None and not Path(running.chromium.executable_path).exists():
            pytest.skip("There is no Chromium: install one, or run `playwright install chromium`.")
        browser = running.chromium.launch(executable_path=system, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, and what it has done besides showing itself."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def column(self, name: str) -> list[str]:
        return self.texts(f"section:has(.rows) >> nth=0 >> .rows > tbody > tr > td.{name}")

    def count(self) -> str:
        return self.texts(".count")[0]


@contextmanager
def visit(browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> Iterator[Visit]:
    """Open a page, and see to it that it asked for no other file, showed no dialog and complained about nothing."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
    seen = Visit(context.new_page())
    seen.page.set_default_timeout(10_000)
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))

    def dialog(opened: Any) -> None:
        seen.complaints.append(f"dialog: {opened.message}")
        opened.dismiss()

    seen.page.on("dialog", dialog)
    seen.page.goto(path.as_uri())
    yield seen
    assert seen.requests == [path.as_uri()]
    assert seen.complaints == []
    context.close()
