"""One file a command of `promptide`: where system, actors and tuning come together."""

#: Each is a function in the file of its name, or of that in FILES.
COMMANDS = (
    "doctor",
    "prepare",
    "pretrain",
    "import",
    "run",
    "evaluate",
    "report",
    "stream",
    "sweep",
    "plan",
    "config",
    "parameters",
    "export",
    "submit",
)
FILES = {"import": "import_"}  # whose name is no name of Python's
