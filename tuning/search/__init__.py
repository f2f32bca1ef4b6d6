"""The search space, and which configs are tried."""
