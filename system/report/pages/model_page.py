"""The page of a trained model: a head with the main figures, and what its own template adds."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def model_page(template: str, title: str, figures: Mapping[str, str], **values: Any) -> str:
    """A self-contained page without scripts; `template` extends model.html."""
    environment = Environment(
        loader=PackageLoader("system.report"), autoescape=True, undefined=StrictUndefined
    )
    page: str = environment.get_template(template).render(title=title, figures=figures, **values)
    return page
