"""The experiment's dataclasses, how Hydra composes them, how mappings are parsed and checked."""
