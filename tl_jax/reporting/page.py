"""The page as text: the template with what it says, all of it escaped."""

from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).parent


def render(**values: Any) -> str:
    """Returns the HTML of a page.

    Args:
      values: the names of `page.html.jinja`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # Names of classes, files and runs are anybody's.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(values)
