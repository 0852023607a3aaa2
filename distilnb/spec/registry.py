"""Names of steps, tasks and models, as text: adding one to the library is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from distilnb.errors import SpecError, UnknownKindError, did_you_mean
from distilnb.spec.base import Spec, explain_validation
from distilnb.spec.code import Code

STEPS: Mapping[str, str] = {
    "BestGeneration": "distilnb.steps.best:BestGeneration",
    "CombineOutputs": "distilnb.steps.join:CombineOutputs",
    "DropColumns": "distilnb.steps.columns:DropColumns",
    "ExactDedup": "distilnb.steps.dedup:ExactDedup",
    "ExpandColumns": "distilnb.steps.columns:ExpandColumns",
    "FilterRows": "distilnb.steps.filter:FilterRows",
    "FormatTextGenerationDPO": "distilnb.steps.training:FormatTextGenerationDPO",
    "FormatTextGenerationSFT": "distilnb.steps.training:FormatTextGenerationSFT",
    "FunctionSource": "distilnb.steps.function:FunctionSource",
    "FunctionStep": "distilnb.steps.function:FunctionStep",
    "GlobalFunctionStep": "distilnb.steps.function:GlobalFunctionStep",
    "GroupColumns": "distilnb.steps.join:GroupColumns",
    "KeepColumns": "distilnb.steps.columns:KeepColumns",
    "LoadDataFromDicts": "distilnb.steps.sources:LoadDataFromDicts",
    "LoadDataFromDisk": "distilnb.steps.sources:LoadDataFromDisk",
    "LoadDataFromFileSystem": "distilnb.steps.sources:LoadDataFromFileSystem",
    "LoadDataFromHub": "distilnb.steps.sources:LoadDataFromHub",
    "MagpieRows": "distilnb.tasks.magpie:MagpieRows",
    "MapRows": "distilnb.steps.function:MapRows",
    "MergeColumns": "distilnb.steps.columns:MergeColumns",
    "RenameColumns": "distilnb.steps.columns:RenameColumns",
    "RouteRows": "distilnb.steps.route:RouteRows",
    "TakeRows": "distilnb.steps.filter:TakeRows",
}

TASKS: Mapping[str, str] = {
    "EmbeddingGeneration": "distilnb.tasks.embedding:EmbeddingGeneration",
    "FunctionTask": "distilnb.tasks.function:FunctionTask",
    "ImageGeneration": "distilnb.tasks.drawing:ImageGeneration",
    "Magpie": "distilnb.tasks.magpie:Magpie",
    "PrometheusEval": "distilnb.tasks.prometheus:PrometheusEval",
    "TextGeneration": "distilnb.tasks.generation:TextGeneration",
    "TextGenerationWithImage": "distilnb.tasks.generation:TextGenerationWithImage",
    "UltraFeedback": "distilnb.tasks.ultrafeedback:UltraFeedback",
}

LLMS: Mapping[str, str] = {
    "AnthropicLLM": "distilnb.llms.anthropic:AnthropicLLM",
    "AnyscaleLLM": "distilnb.llms.anyscale:AnyscaleLLM",
    "AzureOpenAILLM": "distilnb.llms.azure:AzureOpenAILLM",
    "ClientvLLM": "distilnb.llms.vllm:ClientvLLM",
    "CohereLLM": "distilnb.llms.cohere:CohereLLM",
    "GroqLLM": "distilnb.llms.groq:GroqLLM",
    "InferenceEndpointsLLM": "distilnb.llms.huggingface:InferenceEndpointsLLM",
    "LiteLLM": "distilnb.llms.litellm:LiteLLM",
    "LlamaCppLLM": "distilnb.llms.gguf:LlamaCppLLM",
    "MistralLLM": "distilnb.llms.mistral:MistralLLM",
    "MlxLLM": "distilnb.llms.mlx:MlxLLM",
    "OllamaLLM": "distilnb.llms.ollama:OllamaLLM",
    "OpenAILLM": "distilnb.llms.openai:OpenAILLM",
    "RehearsalLLM": "distilnb.llms.rehearsal:RehearsalLLM",
    "TogetherLLM": "distilnb.llms.together:TogetherLLM",
    "TransformersLLM": "distilnb.llms.transformers:TransformersLLM",
    "VertexAILLM": "distilnb.llms.vertexai:VertexAILLM",
    "vLLM": "distilnb.llms.vllm_engine:vLLM",
}

EMBEDDINGS: Mapping[str, str] = {
    "LlamaCppEmbeddings": "distilnb.llms.gguf_embeddings:LlamaCppEmbeddings",
    "OpenAIEmbeddings": "distilnb.llms.openai_embeddings:OpenAIEmbeddings",
    "RehearsalEmbeddings": "distilnb.llms.rehearsal_embeddings:RehearsalEmbeddings",
    "SentenceTransformerEmbeddings": "distilnb.llms.sentence_transformers:SentenceTransformerEmbeddings",
    "vLLMEmbeddings": "distilnb.llms.vllm_embeddings:vLLMEmbeddings",
}

# Models that are made of others: no providers.
COMBINED: Mapping[str, str] = {
    "FallbackLLM": "distilnb.llms.fallback:FallbackLLM",
    "LLMPool": "distilnb.llms.pool:LLMPool",
    "MixtureOfAgentsLLM": "distilnb.llms.mixture:MixtureOfAgentsLLM",
}

IMAGE_MODELS: Mapping[str, str] = {
    "InferenceEndpointsImageGeneration": "distilnb.llms.huggingface_images:InferenceEndpointsImageGeneration",
    "OpenAIImageGeneration": "distilnb.llms.openai_images:OpenAIImageGeneration",
    "RehearsalImages": "distilnb.llms.rehearsal_images:RehearsalImages",
}

MODELS: Mapping[str, str] = {**LLMS, **EMBEDDINGS, **IMAGE_MODELS, **COMBINED}  # whatever a task may ask

KINDS: Mapping[str, str] = {**STEPS, **TASKS, **MODELS}


def load_kind(kind: str, classes: Mapping[str, type[Spec]] | None = None) -> type[Spec]:
    """Return the class of that name: one of the library's, or one of the user's own `classes`.

    Raises UnknownKindError with the near match. No module that a file names is ever imported.
    """
    if classes and kind in classes:
        return classes[kind]
    if kind not in KINDS:
        raise UnknownKindError(
            f"There is no step, task or model class {kind!r}.",
            did_you_mean(kind, KINDS, "A class of your own is passed along: classes=[MyStep]."),
        )
    module, _, name = KINDS[kind].partition(":")
    loaded = getattr(import_module(module), name)
    if not (isinstance(loaded, type) and issubclass(loaded, Spec)):
        raise UnknownKindError(f"{kind!r} is not a class of steps, tasks or models.")
    return loaded


def build(
    data: Mapping[str, Any],
    *,
    classes: Mapping[str, type[Spec]] | None = None,
    codes: Mapping[str, object] | None = None,
) -> Spec:
    """Make a spec again from what `dump` returned.

    `classes` maps names of the user's classes, `codes` digests of functions to their live objects. Raises
    UnknownKindError, UnknownParameterError or SpecError.
    """
    values = dict(data)
    kind = str(values.pop("kind", ""))
    cls = load_kind(kind, classes)
    fields = {key: _build_value(value, classes, codes) for key, value in values.items()}
    try:
        return cls(**fields)
    except ValidationError as error:
        raise explain_validation(kind, error, set(cls.model_fields)) from error


def _build_value(
    value: Any, classes: Mapping[str, type[Spec]] | None, codes: Mapping[str, object] | None
) -> Any:
    if isinstance(value, Mapping):
        # A row, or a property of a JSON schema, may be called "kind" too.
        if isinstance(value.get("kind"), str) and (
            value["kind"] in KINDS or value["kind"] in (classes or {})
        ):
            return build(value, classes=classes, codes=codes)
        if value.keys() == {"code", "source", "digest"}:
            return Code(value["code"], value["source"], value["digest"], (codes or {}).get(value["digest"]))
        return {key: _build_value(item, classes, codes) for key, item in value.items()}
    if isinstance(value, list):
        return [_build_value(item, classes, codes) for item in value]
    return value


def user_code(spec: Spec) -> dict[str, object]:
    """Return the user's functions (by digest) and classes (by kind) that a spec holds, at any depth."""
    found: dict[str, object] = {}
    if spec.kind() not in KINDS:
        found[f"class:{spec.kind()}"] = type(spec)
    for name in type(spec).model_fields:
        _collect_code(getattr(spec, name), found)
    return found


def _collect_code(value: object, found: dict[str, object]) -> None:
    if isinstance(value, Spec):
        found.update(user_code(value))
    elif isinstance(value, Code):
        if value.is_live:
            found[value.digest] = value.live
    elif isinstance(value, dict):
        for item in value.values():
            _collect_code(item, found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect_code(item, found)
    elif isinstance(value, BaseModel):
        raise SpecError(f"A step holds a {type(value).__name__}, which is not a spec; make it in `load`.")
