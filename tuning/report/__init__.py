"""Tables, charts and page of a sweep."""
