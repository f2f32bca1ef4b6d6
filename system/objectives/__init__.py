"""What a stream of tasks learns: one objective a folder, whose `objective` assigns `OBJECTIVE`."""
