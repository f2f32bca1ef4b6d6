"""The Grounding DINO family of `transformers`: the grounder, its texts, its losses."""
