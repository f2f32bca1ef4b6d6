"""Methods that learn weights or adapters, and the frozen model as it is."""
