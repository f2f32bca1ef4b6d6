"""Parts that register themselves by name: one file adds a method, a backbone or a dataset."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from system.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of part, found in the modules of one package and those below it.

    The package's modules are imported at the first look-up, so a new file needs no list to be
    extended, and a name can be asked for without importing what it is not.
    """

    def __init__(
        self, kind: str, package: str, elsewhere: Callable[[str], str | None] | None = None
    ) -> None:
        """`elsewhere` knows what to say of a name that is right, but in another place."""
        self.kind = kind
        self.package = package
        self._elsewhere = elsewhere
        self._parts: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a part under `name`; a name can be taken once."""

        def enter(part: T) -> T:
            assert name not in self._parts, f"{self.kind} {name!r} is registered twice"
            self._parts[name] = part
            return part

        return enter

    def get(self, name: str) -> T:
        """The part of that name. Raises ConfigError with the known names and the nearest one."""
        self._load()
        if name not in self._parts:
            advice = self._elsewhere(name) if self._elsewhere else None
            if advice:
                raise ConfigError(advice)
            near = difflib.get_close_matches(str(name), self._parts, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            known = ", ".join(sorted(self._parts))
            raise ConfigError(f"unknown {self.kind} {name!r}{hint} Known: {known}.")
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._parts))

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)
        self._loaded = True
