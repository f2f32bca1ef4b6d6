"""Pages run our scripts alone and load nothing."""

import base64
import hashlib

from plotly.offline import get_plotlyjs

from tests.report.page_reader import PageReader


def test_nothing_comes_from_the_network(page: PageReader) -> None:
    """Else the page breaks offline, or tells others that it was opened."""
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    assert "link" not in page.tags
    assert "iframe" not in page.tags
    assert page.policy.startswith("default-src 'none'; img-src data: blob:;")


def test_the_policy_admits_exactly_the_two_scripts(page: PageReader) -> None:
    """Else the charts stay empty, or a foreign script may run."""
    assert page.scripts[0] == get_plotlyjs()
    assert len(page.scripts) == 2
    admitted = page.policy.split("script-src ")[1].split()
    assert admitted == [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in page.scripts
    ]
    assert not page.handlers
