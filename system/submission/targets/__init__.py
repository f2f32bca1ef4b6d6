"""One file a kind of cluster that a command can be sent to, or a file be rendered for."""
