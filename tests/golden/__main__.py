"""Entry point of `python -m tests.golden DIR`."""

import sys
from pathlib import Path

from tests.golden import (  # noqa: F401  (they register their checks)
    coupled,
    diff_prompt,
    diff_prompt_on_glip,
    glip_boxes,
    glip_head,
    glip_inputs,
    glip_published,
    grounding,
    lpi,
    lpi_on_glip,
    pools,
)
from tests.golden.runner import failed, run


def main(arguments: list[str]) -> int:
    """Print a line a fixture; 0 if all pass, 1 on a failure, 2 on a wrong call."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m tests.golden DIR    (DIR: a directory of .npz files)\n")
        return 2
    results = run(Path(arguments[0]))
    for result in results:
        sys.stdout.write(result.line() + "\n")
    return 1 if failed(results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
