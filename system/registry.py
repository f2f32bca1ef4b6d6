"""Parts that are found by name: one file adds a method, a backbone or a dataset."""

import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar, cast

from system.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """The parts of one kind: each is a constant of its own module, whose name is the part's.

    A part is any module below `package` that assigns `constant` at its top level. Listing reads the
    sources and imports nothing; a look-up imports the one module that it asks for. So a file that
    cannot be imported breaks no other part, and nothing has to be extended for a new file.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        constant: str,
        *,
        file: str | None = None,
        elsewhere: Callable[[str], str | None] | None = None,
    ) -> None:
        """`file` names the module of parts that are folders: the folder's name is then the part's.

        `elsewhere` returns advice for a name that belongs to a part of another kind.
        """
        self.kind = kind
        self.package = package
        self.constant = constant
        self._file = file
        self._elsewhere = elsewhere
        self._modules: dict[str, str] | None = None

    def get(self, name: str) -> T:
        """The part of that name. Raises ConfigError with the known names and the nearest one."""
        modules = self._found()
        if name not in modules:
            advice = self._elsewhere(name) if self._elsewhere else None
            if advice:
                raise ConfigError(advice)
            near = difflib.get_close_matches(str(name), modules, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            known = ", ".join(sorted(modules))
            raise ConfigError(f"unknown {self.kind} {name!r}{hint} Known: {known}.")
        return cast(T, getattr(importlib.import_module(modules[name]), self.constant))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._found()))

    def __contains__(self, name: object) -> bool:
        return name in self._found()

    def _found(self) -> dict[str, str]:
        """The module of each part, by the part's name."""
        if self._modules is None:
            spec = importlib.util.find_spec(self.package)
            assert spec is not None
            root = Path(next(iter(spec.submodule_search_locations or ())))
            assigned = re.compile(rf"^{self.constant}\b[^=\n]*=(?!=)", re.MULTILINE)
            found: dict[str, str] = {}
            for path in sorted(root.rglob(f"{self._file or '*'}.py")):
                if not assigned.search(path.read_text(encoding="utf-8")):
                    continue
                name = path.parent.name if self._file else path.stem
                assert name not in found, f"{self.kind} {name!r} exists twice: {path}"
                found[name] = ".".join(
                    (self.package, *path.relative_to(root).with_suffix("").parts)
                )
            self._modules = found
        return self._modules
