"""The tasks that judge a candidate, in the order in which they are asked."""

from evals.tasks.base import Question, Setting, Task
from evals.tasks.continuation import Continuation
from evals.tasks.copying import Copying
from evals.tasks.needle import Needle
from evals.tasks.single import Single

TASKS: tuple[Task, ...] = (Needle(), Copying(), Single(), Continuation())

__all__ = ["TASKS", "Question", "Setting", "Task"]
