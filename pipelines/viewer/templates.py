"""Templates of the application: everything that comes from data is escaped, and a name that is missing is an error."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

__all__ = ["Templates"]

_OWN = Path(__file__).parent / "templates"


class Templates:
    """The templates of a page module, above those that all pages share (`base.html.j2`).

    Args:
        folder: of the page module's templates.
    """

    def __init__(self, folder: Path) -> None:
        self._environment = Environment(
            loader=FileSystemLoader([folder, _OWN]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def page(self, template: str, /, status: int = 200, **values: object) -> HTMLResponse:
        """A page from a template, such as `item.html.j2`."""
        return HTMLResponse(self._environment.get_template(template).render(**values), status)
