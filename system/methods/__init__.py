"""What is trained: one file a method, which assigns `METHOD`."""
