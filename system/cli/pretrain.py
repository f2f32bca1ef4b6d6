"""`promptide pretrain`: make a small backbone or grounder."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from system.backbones.dual_encoder import resolved
from system.backbones.pretrain_clip import PretrainConfig
from system.backbones.pretrain_clip import pretrain as pretrain_backbone
from system.config.compose import compose
from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.grounders.pretrain_grounder import GrounderPretrainConfig, pretrain_grounder
from system.report.terminal.step_progress import PretrainProgress


def pretrain(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Make a small backbone, or the grounder if one is chosen, where its path points to."""
    experiment = compose(overrides, file)
    chosen = experiment.grounder or experiment.backbone
    kind = "backbone" if experiment.grounder is None else "grounder"
    if chosen.pretrain is None:
        raise ConfigError(
            f"{kind} {chosen.name!r} cannot be made here: its config has no pretrain section; "
            "choose backbone=tiny_clip or grounder=tiny_grounder"
        )
    where, directory = f"{kind}.pretrain", Path(resolved(chosen.path))
    with PretrainProgress(console) as progress:
        if experiment.grounder is None:
            config = parse_dataclass(PretrainConfig, chosen.pretrain, where)
            pretrain_backbone(config, directory, progress.update)
        else:
            recipe = parse_dataclass(GrounderPretrainConfig, chosen.pretrain, where)
            pretrain_grounder(recipe, directory, progress.update)
    console.print(f"{kind}: {chosen.path}", soft_wrap=True)
