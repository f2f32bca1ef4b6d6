"""What the user sees: the terminal's progress and final table, and report.html."""
