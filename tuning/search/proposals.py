"""Settings that Optuna proposes from the figures so far, kept on storage as they are made."""

import json
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType
from typing import Any

from system.errors import ConfigError
from system.storage.files import Folder
from tuning.run.trial_table import Board
from tuning.search.space import LISTED, Dimension, Space, rounded
from tuning.search.sweep_plan import Setting, Trial, at_point

PROPOSALS = "proposals.json"
Enter = Callable[[Setting], list[Trial]]  # puts a setting's trials on the board
Parameters = Callable[[Trial], float]  # how many numbers a finished trial trained


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

    With `parameters` it has two objectives, a large figure and few trainable numbers (Ozaki et al.
    2022, "Multiobjective tree-structured Parzen estimator").

    What was proposed is read back when a sweep goes on, with the figures that came of it; new
    proposals then follow. Which figures are known when a proposal is made depends on what runs side
    by side: only what is on storage repeats itself. Raises ConfigError when Optuna is missing.
    """

    def __init__(
        self,
        space: Space,
        base: Setting,
        samples: int,
        seed: int,
        folder: Folder,
        board: Board,
        parameters: Parameters | None = None,
    ) -> None:
        optuna = require_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self.space, self.base, self.samples, self.seed = space, base, samples, seed
        self.folder, self.board, self.parameters = folder, board, parameters
        directions = ["maximize"] if parameters is None else ["maximize", "minimize"]
        self.study = optuna.create_study(directions=directions)
        self.made: list[dict[str, Any]] = []  # {"parameters": Optuna's, "values": ours}
        self.open: dict[str, Any] = {}  # label -> Optuna's trial that waits for its figure
        self.trials: dict[str, list[Trial]] = {}

    def restore(self, enter: Enter) -> None:
        """Put the settings that were proposed before on the board again."""
        if not self.folder.exists(PROPOSALS):
            return
        kept = self.folder.read_json(PROPOSALS)
        if not isinstance(kept, dict) or kept["space"] != self._space:
            raise ConfigError(
                f"{self.folder.file_uri(PROPOSALS)} was proposed from another tune.space; give "
                "this sweep another run_name, or the old space to go on with that one"
            )
        for made in kept["proposals"][: self.samples]:
            self.study.enqueue_trial(made["parameters"])
            self._enter(self._propose(), enter)
        for trials in self.trials.values():
            self.settled(trials[0])

    def propose(self, enter: Enter) -> Trial | None:
        """The next trial: of a new setting, as long as there are any."""
        if len(self.made) == self.samples:
            return None
        setting = self._propose()
        # First: what was entered without it would be proposed anew, with other values.
        kept = {"space": self._space, "proposals": self.made}
        self.folder.write_json(PROPOSALS, kept)
        return self._enter(setting, enter)[0]

    def settled(self, trial: Trial) -> None:
        """Tell the study what came of a setting, once none of its trials goes on."""
        label = trial.setting.label
        statuses = self.board.statuses()
        names = [each.name for each in self.trials[label]]
        found = {statuses[name] for name in names}
        if label not in self.open or found & {"pending", "running"}:
            return
        state = self._optuna.trial.TrialState
        asked = self.open.pop(label)
        stops = self.board.stops()
        courses = [self.board.entries[name].course.figures[: stops.get(name)] for name in names]
        finals = [course[-1] for course in courses if course and course[-1] is not None]
        if found == {"finished"} and len(finals) == len(names):
            values = [sum(finals) / len(finals)]
            if self.parameters is not None:
                values.append(self.parameters(self.trials[label][0]))
            self.study.tell(asked, values)
        elif "stopped" in found and finals:
            figures = next(c for c, n in zip(courses, names, strict=True) if n in stops and c)
            asked.report(figures[-1], len(figures))
            self.study.tell(asked, state=state.PRUNED)
        else:
            self.study.tell(asked, state=state.FAIL)

    @property
    def _space(self) -> list[Any]:
        """As JSON gives it back."""
        found: list[Any] = json.loads(json.dumps([asdict(d) for d in self.space.dimensions]))
        return found

    def _propose(self) -> Setting:
        # Seeded anew by their number, or those after an interruption would repeat the first ones.
        number = len(self.made)
        self.study.sampler = self._optuna.samplers.TPESampler(seed=self.seed + number)
        asked = self.study.ask()
        point = self.space.fill(lambda dimension: _value(asked, dimension))
        self.made.append({"parameters": asked.params, "values": point})
        setting = at_point(self.base, point, number)
        self.open[setting.label] = asked
        return setting

    def _enter(self, setting: Setting, enter: Enter) -> list[Trial]:
        self.trials[setting.label] = enter(setting)
        return self.trials[setting.label]


def _value(asked: Any, dimension: Dimension) -> Any:
    """One key's value from Optuna, whose categories must be plain: lists go as JSON."""
    if dimension.kind in LISTED:
        choices = [json.dumps(value) for value in dimension.values]
        return json.loads(asked.suggest_categorical(dimension.key, choices))
    low, high = dimension.values
    if dimension.kind == "randint":
        return asked.suggest_int(dimension.key, low, high)
    log = dimension.kind == "loguniform"
    return rounded(asked.suggest_float(dimension.key, low, high, log=log))
