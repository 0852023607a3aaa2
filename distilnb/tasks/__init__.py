"""WHAT to ask: prompt and parser pairs, pure and testable without a model; one file a family."""

from distilnb.tasks.base import Task
from distilnb.tasks.function import task
from distilnb.tasks.generation import TextGeneration
from distilnb.tasks.prometheus import PrometheusEval
from distilnb.tasks.ultrafeedback import UltraFeedback

__all__ = ["PrometheusEval", "Task", "TextGeneration", "UltraFeedback", "task"]
