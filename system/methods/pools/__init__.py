"""Methods that choose prompts from a pool for each sample."""
