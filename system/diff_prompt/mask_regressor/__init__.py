"""A deterministic control of stage 2: the latent of an expression's mask by regression."""
