"""Stage 3 of Diff-Prompt, for any method: learn on a frozen grounder, and be judged by boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from system.config.compose import override
from system.engine.checkpoint import epochs_done
from system.engine.epochs import trained
from system.engine.model_stage import ModelExperiment, Tell, started
from system.engine.model_worker import worker_of
from system.objectives.grounding.alignment.alignment_files import RESULT, load_result
from system.objectives.grounding.alignment.alignment_plan import AlignmentExperiment, AlignmentPlan
from system.objectives.grounding.alignment.alignment_run import Alignment
from system.objectives.grounding.alignment.rec_metrics import rec_metrics
from system.report.pages.rec_page import COLUMNS, print_rec_table, rec_page
from system.report.pages.rec_pictures import rec_pictures
from system.results.rec_figures import METRICS as RECALLS
from system.storage.adapters import AdapterFolder
from system.storage.files import Folder
from system.storage.run_directory import METRICS, REPORT, RunDirectory


class AlignmentStage:
    """What a run of `stage=alignment` does."""

    experiment = AlignmentExperiment
    figures = tuple(RECALLS)
    logged = (*RECALLS, "average", "zero_shot", "trainable_parameters", "wall_seconds")
    shown = COLUMNS
    rate_key = "stage.learning_rate"

    def rate_overrides(self, experiment: ModelExperiment) -> tuple[str, ...]:
        """The validation split, and of the first task as many expressions as of all together."""
        plan = AlignmentPlan.of(experiment)
        each = {
            name: getattr(plan.settings, name) for name in ("train_expressions", "test_expressions")
        }
        more = [
            override(f"stage.{name}", count * len(plan.tasks))
            for name, count in each.items()
            if count is not None
        ]
        return (override("stage.splits", ["val"]), *more)

    def tasks(self, experiment: ModelExperiment) -> tuple[str, ...]:
        """The benchmark's tasks, in order."""
        return AlignmentPlan.of(experiment).tasks

    def learns(self, experiment: ModelExperiment) -> bool:
        """Whether the method trains anything."""
        return bool(trained(AlignmentPlan.of(experiment).method()))

    def place(self, experiment: ModelExperiment) -> Folder:
        """Where the finished model lies."""
        return AlignmentPlan.of(experiment).folder

    def before(self, experiment: ModelExperiment) -> Sequence[ModelExperiment]:
        """The prompt generator, for a method that takes its latents."""
        plan = AlignmentPlan.of(experiment)
        if plan.generator is None or plan.method().latent_needs is None:
            return ()
        return (plan.generator,)

    def epochs_done(self, experiment: ModelExperiment) -> int:
        """Epochs in the run's last checkpoint."""
        return epochs_done(RunDirectory.of(experiment).folder)

    def finished(self, experiment: ModelExperiment) -> bool:
        """Whether the result is there already; checks settings, grounder and data first."""
        plan = AlignmentPlan.of(experiment)
        if plan.folder.exists(RESULT):
            return True
        plan.check()
        return False

    def loop(self, config: dict[str, Any]) -> None:
        """Ray Train's `train_loop_per_worker`."""
        experiment, show = started(config)
        plan = AlignmentPlan.of(experiment)
        with worker_of(experiment) as (group, log):
            Alignment(plan, group, log, show).run()

    def report(self, experiment: ModelExperiment, tell: Tell) -> None:
        """Write figures, adapter and page into the run directory and tell the main figures."""
        plan = AlignmentPlan.of(experiment)
        result = load_result(plan.folder)
        directory = RunDirectory.of(experiment)
        learned, copy = AdapterFolder(plan.folder), AdapterFolder(directory.adapters)
        copy.save_task(0, learned.task(0))
        copy.save_header(learned.header())
        directory.folder.write_json(METRICS, rec_metrics(experiment.run_name, result))
        pictures = rec_pictures(result, plan.manifest)
        page = rec_page(experiment.run_name, result, pictures)
        directory.folder.write(REPORT, page.encode())
        for line in print_rec_table(result):
            tell(line)
        tell(f"adapter: {directory.adapters.uri}")
        tell(f"report: {directory.folder.file_uri(REPORT)}")


STAGE = AlignmentStage()
