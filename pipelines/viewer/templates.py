"""Templates of the application: everything that comes from data is escaped, and a name that is missing is an error."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

__all__ = ["Templates"]

_OWN = Path(__file__).parent / "templates"


class Templates:
    """The templates of a page module, above those that all pages share (`base.html.j2`).

    Args:
        folder: of the page module's templates.
        prefix: path of the page, which templates know by this name.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self._environment = Environment(
            loader=FileSystemLoader([folder, _OWN]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # The library's types know only the names that it puts there itself.
        cast("dict[str, object]", self._environment.globals)["prefix"] = prefix

    def page(self, template: str, /, status: int = 200, **values: object) -> HTMLResponse:
        """A page from a template, such as `item.html.j2`."""
        return HTMLResponse(self._environment.get_template(template).render(**values), status)
