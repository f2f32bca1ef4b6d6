"""How trials run, are compared and stopped."""
