"""The command line's entry: it finds the command's file in `system.cli`, and says how it ended."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from rich.console import Console

from system.cli import COMMANDS, FILES
from system.errors import ConfigError, PromptideError
from system.report.terminal.console import PlainConsole
from system.submission.job_environment import hear_stop, unseal

USAGE = """promptide COMMAND [key=value ...]

  doctor     what is missing of a benchmark's files   promptide doctor benchmark=lpi_coco
  prepare    write a benchmark's task shards          promptide prepare benchmark=openmoji
  pretrain   make a small backbone or grounder        promptide pretrain grounder=tiny_grounder
  import     published weights and results, as ours   promptide import mask_dit owner/name DIR
  run        learn a stream of tasks on Ray           promptide run experiment=demo
  evaluate   adapters or a frozen model, no training  promptide evaluate experiment=demo
  report     one HTML page from a run or a sweep      promptide report experiment=demo
  stream     tasks of a run as it goes on             promptide stream append run_name=demo food
  sweep      runs as trials on Ray Tune               promptide sweep experiment=compare
  plan       work, FLOPs, memory, time of a run       promptide plan experiment=lpi plan.devices=8
  config     every value, and where it comes from     promptide config experiment=lpi_released
  parameters what each method trains, at ViT-B/16     promptide parameters
  export     results as other programs have them     promptide export res runs/demo res.json
  submit     any of these as a job on a cluster       promptide submit run submit=ray_address

Every command takes Hydra overrides: promptide run seed=1 method.rank=8 cluster.workers=4
and, to start from a resolved config, a file: promptide run --config runs/compare/best.yaml
The groups and their options are the folders and files under configs/."""

#: Takes the words behind the command, the file behind `--config`, and where to print.
Command = Callable[[Sequence[str], str | None, Console], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `promptide`. Returns 0, 2 for a user's error, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console, errors = PlainConsole(), PlainConsole(stderr=True)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        console.print(USAGE, highlight=False)
        return 0 if arguments else 2
    try:
        hear_stop()
        unseal()  # what a job was sent with
        command = _command(arguments[0])
        overrides, file = _split_config_file(arguments[1:])
        command(overrides, file, console)
    except PromptideError as error:
        errors.print(f"error: {error}", style="red", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here")
        return 130
    return 0


def _command(name: str) -> Command:
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}; one of: {', '.join(COMMANDS)}")
    file = FILES.get(name, name)
    command: Command = getattr(import_module(f"system.cli.{file}"), file)
    return command


def _split_config_file(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides, and what stands behind `--config`."""
    overrides: list[str] = []
    file: str | None = None
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option != "--config":
            overrides.append(argument)
            continue
        file = value if equals else next(rest, None)
        if not file:
            raise ConfigError("--config needs a file, such as --config runs/compare/best.yaml")
    return overrides, file


if __name__ == "__main__":
    sys.exit(main())
