"""The pipeline as its user writes it: an immutable graph behind fluent verbs."""

from distilnb.pipeline.pipeline import Pipeline
from distilnb.pipeline.preview import Preview, StepView
from distilnb.steps.route import routing_batch_function, sample_n_steps

__all__ = ["Pipeline", "Preview", "StepView", "routing_batch_function", "sample_n_steps"]
