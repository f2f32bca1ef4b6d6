"""What is shown of many tasks: some of them, evenly spread, and a sentence that says so."""

SHOWN_TASKS = 48  # more than these make a page that no browser opens, and nobody reads
SHOWN_POINTS = 400  # of a curve


def subsample(count: int, most: int = SHOWN_TASKS) -> list[int]:
    """At most so many of `count` places, evenly spread; the first and the last are among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def shown_tasks(count: int) -> str:
    """A sentence for a chart or table that does not show all tasks; else nothing."""
    if count <= SHOWN_TASKS:
        return ""
    return f" {SHOWN_TASKS} of {count:,} tasks are shown, evenly spread; the run's files have all."
