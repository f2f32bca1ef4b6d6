"""Stages 1 and 2 of Diff-Prompt, and the latents that its prompts are made from."""
