"""Trial configs that Optuna proposes from the scores so far; stored as they are made."""

import json
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType
from typing import Any

from system.errors import ConfigError
from system.storage.files import Folder
from tuning.run.trial_table import TrialTable
from tuning.search.space import LISTED, Dimension, Space, rounded
from tuning.search.sweep_plan import Trial, TrialConfig, at_point

PROPOSALS = "proposals.json"
Enter = Callable[[TrialConfig], list[Trial]]  # adds a trial config's trials to the table
Parameters = Callable[[Trial], float]  # number of parameters that a finished trial trained


def require_optuna() -> ModuleType:
    """The package, which is an extra. Raises ConfigError where it is missing."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "tune.search=optuna needs the package optuna: pip install 'promptide[optuna]', or "
            "choose tune.search=random"
        ) from error
    found: ModuleType = optuna
    return found


class Proposals:
    """A study of Optuna's TPE (Bergstra et al. 2011) over the space.

    With `parameters` it has two objectives, a large score and few trainable parameters (Ozaki et
    al. 2022, "Multiobjective tree-structured Parzen estimator").

    An interrupted sweep reads back its proposals and their scores before it makes new ones. Which
    scores are known when a proposal is made depends on timing: only stored proposals are
    reproducible. Raises ConfigError when Optuna is missing.
    """

    def __init__(
        self,
        space: Space,
        base: TrialConfig,
        samples: int,
        seed: int,
        folder: Folder,
        table: TrialTable,
        parameters: Parameters | None = None,
    ) -> None:
        optuna = require_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self.space, self.base, self.samples, self.seed = space, base, samples, seed
        self.folder, self.table, self.parameters = folder, table, parameters
        directions = ["maximize"] if parameters is None else ["maximize", "minimize"]
        self.study = optuna.create_study(directions=directions)
        self.made: list[dict[str, Any]] = []  # {"parameters": Optuna's, "values": ours}
        self.open: dict[str, Any] = {}  # label -> Optuna's trial that waits for its score
        self.trials: dict[str, list[Trial]] = {}

    def restore(self, enter: Enter) -> None:
        """Enter the stored proposals again."""
        if not self.folder.exists(PROPOSALS):
            return
        kept = self.folder.read_json(PROPOSALS)
        if not isinstance(kept, dict) or kept["space"] != self._space:
            raise ConfigError(
                f"{self.folder.file_uri(PROPOSALS)} was proposed from another tune.space; give "
                "this sweep another run_name, or continue the stored one with its own space"
            )
        for made in kept["proposals"][: self.samples]:
            self.study.enqueue_trial(made["parameters"])
            self._enter(self._propose(), enter)
        for trials in self.trials.values():
            self.settled(trials[0])

    def propose(self, enter: Enter) -> Trial | None:
        """The first trial of a new trial config; None once there are `samples` of them."""
        if len(self.made) == self.samples:
            return None
        config = self._propose()
        # Stored before it is entered: a driver killed in between would otherwise propose other
        # values for a run directory that already has a config.
        self.folder.write_json(PROPOSALS, {"space": self._space, "proposals": self.made})
        return self._enter(config, enter)[0]

    def settled(self, trial: Trial) -> None:
        """Report a trial config's score to the study once all its trials have ended."""
        label = trial.config.label
        statuses = self.table.statuses()
        names = [each.name for each in self.trials[label]]
        found = {statuses[name] for name in names}
        if label not in self.open or found & {"pending", "running"}:
            return
        state = self._optuna.trial.TrialState
        asked = self.open.pop(label)
        stops = self.table.stops()
        curves = [self.table.entries[name].curve.scores[: stops.get(name)] for name in names]
        finals = [curve[-1] for curve in curves if curve and curve[-1] is not None]
        if found == {"finished"} and len(finals) == len(names):
            values = [sum(finals) / len(finals)]
            if self.parameters is not None:
                values.append(self.parameters(self.trials[label][0]))
            self.study.tell(asked, values)
        elif "stopped" in found and finals:
            scores = next(c for c, n in zip(curves, names, strict=True) if n in stops and c)
            asked.report(scores[-1], len(scores))
            self.study.tell(asked, state=state.PRUNED)
        else:
            self.study.tell(asked, state=state.FAIL)

    @property
    def _space(self) -> list[Any]:
        """The space as it reads back from JSON."""
        found: list[Any] = json.loads(json.dumps([asdict(d) for d in self.space.dimensions]))
        return found

    def _propose(self) -> TrialConfig:
        # A new seed per proposal: after an interruption they would otherwise repeat the first ones.
        number = len(self.made)
        self.study.sampler = self._optuna.samplers.TPESampler(seed=self.seed + number)
        asked = self.study.ask()
        point = self.space.fill(lambda dimension: _value(asked, dimension))
        self.made.append({"parameters": asked.params, "values": point})
        config = at_point(self.base, point, number)
        self.open[config.label] = asked
        return config

    def _enter(self, config: TrialConfig, enter: Enter) -> list[Trial]:
        self.trials[config.label] = enter(config)
        return self.trials[config.label]


def _value(asked: Any, dimension: Dimension) -> Any:
    """One key's value from Optuna; its categories must be scalars, so listed values go as JSON."""
    if dimension.kind in LISTED:
        choices = [json.dumps(value) for value in dimension.values]
        return json.loads(asked.suggest_categorical(dimension.key, choices))
    low, high = dimension.values
    if dimension.kind == "randint":
        return asked.suggest_int(dimension.key, low, high)
    log = dimension.kind == "loguniform"
    return rounded(asked.suggest_float(dimension.key, low, high, log=log))
