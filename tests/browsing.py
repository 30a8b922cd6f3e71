"""What tests in a browser share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["OpenPage", "wait_for_pictures"]

_PAUSES, _PAUSE_MS = 200, 100


class OpenPage(Protocol):
    """Opens an address in a browser of its own."""

    def __call__(self, address: str, **options: Any) -> Page:
        """The page; options are those of playwright's `new_context`, such as `color_scheme`."""
        ...


def wait_for_pictures(page: Page, selector: str = "main img", num: int = 5) -> None:
    """Until the first pictures that a selector finds are drawn, twenty seconds at most.

    Playwright's `networkidle` doesn't do: once a page has reached it, it isn't waited for again.
    """
    sizes: list[int] = []
    widths = "(selector) => [...document.querySelectorAll(selector)].map((image) => image.naturalWidth)"
    for _ in range(_PAUSES):
        sizes = page.evaluate(widths, selector)[:num]
        if sizes and min(sizes) > 0:
            return
        page.wait_for_timeout(_PAUSE_MS)
    raise AssertionError(f"pictures of these widths: {sizes}")
