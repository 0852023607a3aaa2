"""The user's handle on a background execution: `Run`, and how to find one again."""

from distilnb.run.handle import Run, attach
from distilnb.run.listing import RunList, runs

__all__ = ["Run", "RunList", "attach", "runs"]
