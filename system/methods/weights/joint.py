"""All backbone weights fine-tuned on all tasks' images at once: the upper bound of a stream.

Nothing is learned until the last task; then the copy of the pre-trained weights trains on the
images of all tasks, shuffled together, for as many epochs as a task gets otherwise. It reads past
tasks' training images again, which it declares: the access log counts them, and `metrics.json` says
`replays: true`. Trainable parameters and what is saved: as `fine_tune`, at the last task.
"""

from system.methods.base import MethodFactory
from system.methods.weights.fine_tune import FineTune, FineTuneConfig

METHOD = MethodFactory(
    FineTuneConfig,
    retrieval=FineTune,
    trains_on="all",
    no_sharing={"own": "learns all tasks at once, at the last one; use shared or frozen"},
)
