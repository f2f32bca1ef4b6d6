"""What the commands show on the terminal: one place to import it from."""

from system.report.terminal.final_table import print_final_table, print_split_table
from system.report.terminal.step_progress import ModelProgress, PrepareProgress, PretrainProgress
from system.report.terminal.stream_progress import StreamProgress

__all__ = [
    "ModelProgress",
    "PrepareProgress",
    "PretrainProgress",
    "StreamProgress",
    "print_final_table",
    "print_split_table",
]
