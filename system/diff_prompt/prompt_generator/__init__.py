"""Stage 2: the diffusion transformer that draws an expression's mask."""
