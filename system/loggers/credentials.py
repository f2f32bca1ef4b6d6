"""User names and passwords in URIs, which nothing that is kept or shown may hold."""

import re

# A password may have / and @ in it, as database URIs are read; what starts with / has no user.
_USER = re.compile(r"://[^\s/:]*(?::\S*)?@")


def without_credentials(text: str) -> str:
    """A URI, or a message with some, with `...@` for each `user:password@`.

    What looks like a password and is none (`host:80/path@2`) goes too.
    """
    return _USER.sub("://...@", text)
