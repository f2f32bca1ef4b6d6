"""All backbone weights fine-tuned for each task on its own: a ceiling, not a competitor.

Every task starts from the pre-trained weights and keeps a whole copy, so nothing is forgotten and
nothing is small. It tells how much a task has to give: `fine_tune` with `method.sharing` own.
"""

from system.methods.base import MethodFactory
from system.methods.weights.fine_tune import FineTune, FineTuneConfig

METHOD = MethodFactory(FineTuneConfig, retrieval=FineTune, sharing="own")
