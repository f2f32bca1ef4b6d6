"""Stage 3 of Diff-Prompt, for any method on a grounder."""
