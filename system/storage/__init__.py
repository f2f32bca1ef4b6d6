"""Files that outlive a process: adapters, features, the run directory."""
