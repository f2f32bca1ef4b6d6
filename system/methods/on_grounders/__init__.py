"""Methods on a grounder that bear the name of a method on a dual encoder."""
