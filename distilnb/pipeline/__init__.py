"""The pipeline as its user writes it: an immutable graph behind fluent verbs."""

from distilnb.pipeline.pipeline import Pipeline
from distilnb.pipeline.preview import Preview, StepView

__all__ = ["Pipeline", "Preview", "StepView"]
