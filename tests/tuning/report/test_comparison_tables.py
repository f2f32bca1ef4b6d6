"""The comparison as Markdown and LaTeX: the right columns, and text that compiles."""

from tests.tuning.report.test_comparison import trial
from tuning.report.comparison import compare
from tuning.report.comparison_tables import to_latex, to_markdown
from tuning.search.sweep_config import SweepMetric

RECALL = SweepMetric("stream", "average recall", "%", 2)


def test_a_fork_says_where_it_began() -> None:
    fork = trial("b", 0, 31.0, parent="a", forked_after=1, values='{"weight": [0.1, 0.08]}')
    table = to_markdown(compare([trial("a", 0, 30.0), fork], seeds=1), RECALL)
    assert "| b: weight=[0.1, 0.08]; from a after 1 task |" in table
    assert "| a |" in table


def test_markdown_has_a_row_per_trial_config() -> None:
    text = to_markdown(compare([trial("lpi", 0, 20.0), trial("lpi", 1, 22.0)], seeds=2), RECALL)
    header, rule, row = text.strip().splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| lpi | 21.0 ± 1.4 | 21.0 ± 1.4 | 0.5 ± 0.0 |")
    assert "1,072" in row


def test_a_stream_of_boxes_has_columns_of_its_own_recall() -> None:
    """Also where nothing finished: columns of text and image belong to other runs."""
    for recall in (20.0, None):
        own = {"average_rec_r1": recall, "forgetting_rec_r1": recall}
        row = {key: value for key, value in trial("lpi", 0, recall).items() if "2" not in key}
        header, _, line = to_markdown(compare([row | own], seeds=1), RECALL).splitlines()
        assert header.startswith("| trial config | rec R@1 | rec forgetting | parameters |")
        assert line.startswith("| lpi | 20.0 | 20.0 |" if recall else "| lpi | – | – |")  # noqa: RUF001


def test_latex_escapes_names_and_keeps_its_own_signs() -> None:
    """An underscore in a method's name must not stop the paper from compiling."""
    rows = [trial("zero_shot", 0, 20.0), trial("zero_shot", 1, 22.0)]
    text = to_latex(compare(rows, seeds=2), RECALL)
    assert r"zero\_shot & 21.0 $\pm$ 1.4 &" in text
    assert "–" not in text  # noqa: RUF001
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in lines}) == 1
