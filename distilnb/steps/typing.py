"""The types in the signatures of step classes and functions, where programs of 1.x import them from."""

from distilnb.spec.step import GeneratorStepOutput, StepInput, StepOutput

__all__ = ["GeneratorStepOutput", "StepInput", "StepOutput"]
