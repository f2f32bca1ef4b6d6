"""Local paths and URIs as text, treated alike."""

from pathlib import Path


def expanded(path: str) -> Path:
    """Return a local path with `~` expanded; a name that begins with ~ and is no user's stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute(uri: str) -> str:
    """Return a local path made absolute (`~` expanded); a URI comes back as it is."""
    return uri if "://" in uri else str(expanded(uri).absolute())


def join(root: str, *parts: str) -> str:
    """Append path parts to a path or URI; a URI's query (`?region=...`) stays at the end."""
    base, mark, query = root.partition("?") if "://" in root else (root, "", "")
    return "/".join([base.rstrip("/"), *parts]) + mark + query


def parent(uri: str) -> str:
    """Return the folder of a path or URI; a URI's query stays at the end."""
    base, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return base.rstrip("/").rpartition("/")[0] + mark + query


def relative(uri: str, root: str) -> str:
    """Return the part of `uri` that `join` appended to `root`."""
    if "://" in root:
        uri, root = uri.partition("?")[0], root.partition("?")[0]
    base = root.rstrip("/") + "/"
    assert uri.startswith(base), (uri, root)
    return uri[len(base) :]
