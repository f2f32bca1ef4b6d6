"""Rendering of self-contained pages, with the chart library and a policy, or without scripts."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from system.escapes import visible
from system.redaction import redacted
from system.report.formatting import DASH


def render_page(template: str, *packages: str, **values: Any) -> str:
    """A self-contained page: `template` with `values`, `dash`, the scripts and their checksums.

    Templates are looked up in `packages`, then among those of this package.
    """
    from plotly.offline import get_plotlyjs

    places = [PackageLoader(package) for package in (*packages, "system.report")]
    environment = Environment(
        loader=ChoiceLoader(places),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Scripts are admitted by checksum alone, so that no text of a dataset can ever run as one.
    library = get_plotlyjs()
    program = environment.get_template("script.html").render()
    page: str = environment.get_template(template).render(
        dash=DASH,
        # Plotly's own script, and ours from a template without values: no text of a user's.
        library=Markup(library),  # noqa: S704  # nosec B704
        program=Markup(program),  # noqa: S704  # nosec B704
        script_sources=[_checksum(library), _checksum(program)],
        **values,
    )
    return page


def shown(value: Any) -> Any:
    """What a template writes of a value: its text, so that every character shows, and no secret.

    Tags are escaped after this.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(redacted(value), keep="\n\t")


def _checksum(script: str) -> str:
    """Source expression of a Content-Security-Policy that admits exactly this script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def model_page(template: str, title: str, summary: Mapping[str, str], **values: Any) -> str:
    """A self-contained page without scripts; `template` extends model.html.

    `summary` stands in its head: values as text, by name.
    """
    environment = Environment(
        loader=PackageLoader("system.report"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
    )
    page: str = environment.get_template(template).render(title=title, summary=summary, **values)
    return page
