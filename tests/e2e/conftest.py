"""One run of the smoke recipe for all tests that look at one, and one browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from storage.objects import Objects
from tests.browsing import OpenPage
from tests.metrics_page import settled
from tests.smoke_run import SmokeRun, run_smoke
from tests.viewed_workspaces import ViewedWorkspace, write_viewed_workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_TIMEOUT_MS = 20_000


@pytest.fixture(scope="session")
def smoke_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    """The smoke recipe run once in an empty folder."""
    workspace, log = tmp_path_factory.mktemp("smoke"), tmp_path_factory.mktemp("log") / "log.jsonl"
    before = settled()
    result, shown = run_smoke(str(workspace), log)
    return SmokeRun(workspace, result, shown, log, before)


@pytest.fixture(scope="module")
def viewed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a workspace to look at."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def viewed(viewed_root: Path) -> ViewedWorkspace:
    """What is written there."""
    return write_viewed_workspace(Objects.open(viewed_root))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window and without network of its own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("SAILLOFT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(names)} is on the path, and SAILLOFT_CHROMIUM names none")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens an address as a person with a browser of their own; a page may neither fail nor ask other hosts."""
    contexts = []
    troubles: list[str] = []

    def open_as(address: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1366, "height": 850}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(_TIMEOUT_MS)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: _note_foreign(request.url, address, troubles))
        page.goto(address)
        return page

    yield open_as
    for context in contexts:
        context.close()
    assert troubles == []


def _note_foreign(url: str, address: str, troubles: list[str]) -> None:
    if not url.startswith(address.partition("?")[0]):
        troubles.append(f"asked for {url}")
