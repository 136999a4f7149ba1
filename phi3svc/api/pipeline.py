"""`pipeline`: a task and a model's name, and texts can be given to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from phi3svc.api.configuration import with_revision
from phi3svc.api.pipelines.base import Pipeline, PipelineModel
from phi3svc.api.pipelines.text_classification import TextClassificationPipeline
from phi3svc.api.pipelines.text_generation import TextGenerationPipeline
from phi3svc.api.pipelines.token_classification import TokenClassificationPipeline
from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.model import Phi3Config
from phi3svc.errors import InvalidRequest

PIPELINES: Mapping[str, type[Pipeline]] = {
    "text-generation": TextGenerationPipeline,
    "text-classification": TextClassificationPipeline,
    "token-classification": TokenClassificationPipeline,
}
ALIASES: Mapping[str, str] = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
}
# The embedded model of each task, for a pipeline without one.
DEFAULT_MODELS: Mapping[str, str] = {
    "text-generation": "demo",
    "text-classification": "demo-sentiment",
    "token-classification": "demo-entities",
}
_TASKS: Mapping[str, str] = {
    "generation": "text-generation",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
}


def pipeline(
    task: str | None = None,
    model: str | Path | PipelineModel | None = None,
    config: None = None,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    device: int | str | torch.device | None = None,
    device_map: Any = None,
    dtype: Any = "auto",
    torch_dtype: Any = None,
    trust_remote_code: bool | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Pipeline:
    """A pipeline, like transformers' function of that name.

    task: text-generation, text-classification (sentiment-analysis) or token-classification (ner);
    without one, what the model is for. model: a source as `from_pretrained` takes it, or a loaded
    model; without one, the embedded model of the task. tokenizer: see `PipelineTokenizer.of`; by
    default that of the model's folder. revision, device_map, dtype, token, model_kwargs: of
    `from_pretrained`, as is device, where -1 is the CPU and 0 the first CUDA device.
    trust_remote_code and use_fast change nothing: no remote code is ever run. settings: of the
    pipeline class.

    Raises ConfigError, InvalidRequest, or UnsupportedTask when the model has not the task's head.
    """
    if config is not None:
        raise InvalidRequest.of("config", "given, must be None: a checkpoint brings its own")
    if task is None and model is None:
        raise InvalidRequest.of("task", "None together with model=None, must be one of them")
    kind = _pipeline_class(_task_of(model, revision) if task is None else task)
    if model is None:
        model = DEFAULT_MODELS[kind.task]
    if isinstance(model, (str, Path)):
        options = {"dtype": dtype if torch_dtype is None else torch_dtype, **(model_kwargs or {})}
        named = {"revision": revision, "device_map": device_map, "token": token}
        options |= {name: value for name, value in named.items() if value is not None}
        if device is not None:
            options["device"] = device
        model = kind.model_class.from_pretrained(model, **options)
    elif device is not None:
        model.to(device)
    return kind(model, tokenizer, **settings)


def _pipeline_class(task: str) -> type[Pipeline]:
    kind = PIPELINES.get(ALIASES.get(task, task))
    if kind is None:
        names = ", ".join([*PIPELINES, *ALIASES])
        raise InvalidRequest.of("task", f"{task!r}, must be one of {names}")
    return kind


def _task_of(model: Any, revision: str | None) -> str:
    if isinstance(model, (str, Path)):
        source = with_revision(model, revision)
        task: Any = Phi3Config.from_dir(resolve_source(source).path).task
    else:
        task = getattr(model, "head", None)
    if task not in _TASKS:
        raise InvalidRequest.of("task", f"None, must be given for a model that is for {task}")
    return _TASKS[task]
