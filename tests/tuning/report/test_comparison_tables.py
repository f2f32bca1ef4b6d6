"""The comparison as Markdown and LaTeX: the right columns, and text that compiles."""

from dataclasses import replace

from tests.tuning.report.test_comparison import trial
from tuning.report.certainty import NO_RANKS, Certainty, RecallCertainty
from tuning.report.comparison import compare
from tuning.report.comparison_tables import to_latex, to_markdown
from tuning.search.sweep_config import SweepMetric

RECALL = SweepMetric("stream", "average recall", "%", 2)
I2T = RecallCertainty(120, 30.0, (26.0, 34.0), 0.5, (-1.0, 2.0))


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


SURE = Certainty(
    "lpi",
    {
        "lpi": {"t2i_r1": RecallCertainty(600, 22.0, (20.5, 23.4))} | {"i2t_r1": I2T},
        "zero_shot": {
            "t2i_r1": RecallCertainty(600, 20.0, (18.4, 21.6), -2.0, (-3.1, -0.9)),
            "i2t_r1": I2T,
        },
    },
    {"old": NO_RANKS},
)


def test_intervals_and_differences_have_a_table_of_their_own() -> None:
    """Beside the standard deviation over seeds they would make lines that nobody can read."""
    rows = [trial("lpi", 0, 22.0), trial("zero_shot", 0, 20.0), trial("old", 0, 1.0)]
    comparison = replace(compare(rows, seeds=1), certainty=SURE)
    text = to_markdown(comparison, RECALL)
    assert "| trial config | t2i R@1 | to lpi | i2t R@1 | to lpi |" in text
    dash, minus = "–", "−"  # noqa: RUF001
    assert f"| lpi | 22.0 [20.5, 23.4] | {dash} |" in text
    assert f"| zero_shot | 20.0 [18.4, 21.6] | {minus}2.0 [{minus}3.1, {minus}0.9] |" in text
    assert "(600 t2i queries, 120 i2t queries)" in text
    assert f"No interval for old: {NO_RANKS}." in text
    latex = to_latex(comparison, RECALL)
    assert r"zero\_shot & 20.0 [18.4, 21.6] & $-$2.0 [$-$3.1, $-$0.9] &" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert to_markdown(compare(rows, seeds=1), RECALL).count("trial config") == 1


def test_sharing_is_a_column_where_trials_tell_it() -> None:
    """Isolated methods and shared ones are different games: who reads one table must see both."""
    rows = [trial("lpi", 0, 22.0, sharing="own"), trial("lora", 0, 20.0, sharing="shared")]
    header, _, first, second = to_markdown(compare(rows, seeds=1), RECALL).splitlines()
    assert header.startswith("| trial config | sharing | t2i R@1 |")
    assert first.startswith("| lpi | own | 22.0 |")
    assert second.startswith("| lora | shared | 20.0 |")
    old = to_markdown(compare([trial("lpi", 0, 22.0)], seeds=1), RECALL)
    assert "sharing" not in old
