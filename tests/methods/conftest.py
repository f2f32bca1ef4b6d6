"""A grounder that several modules' tests share."""

import pytest

from system.grounders.grounder import Grounder
from tests.grounders.small_glip import loaded, write_small_glip


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    return loaded(write_small_glip(tmp_path_factory.mktemp("small-grounder")))
