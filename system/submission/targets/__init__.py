"""One file per kind of cluster that a command is sent to or rendered for."""
