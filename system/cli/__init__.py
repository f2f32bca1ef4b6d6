"""One file a command of `promptide`: where system, actors and tuning come together."""

#: Each is a function in the file of its name.
COMMANDS = (
    "doctor",
    "prepare",
    "pretrain",
    "run",
    "evaluate",
    "report",
    "stream",
    "sweep",
    "config",
    "parameters",
    "submit",
)
