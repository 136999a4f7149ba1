"""phi3svc: serve Microsoft's Phi-3 language models over gRPC, with replayable token streams.

The public names below load on first use, so that importing the package (as the server's front
process does) never pays for torch. The Auto names are there for scripts written for transformers:
all models here are of one family, so each stands for the one class that it would choose.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from phi3svc.api.cache import Phi3Cache
    from phi3svc.api.configuration import Phi3Config
    from phi3svc.api.configuration import Phi3Config as AutoConfig
    from phi3svc.api.generation_config import GenerationConfig
    from phi3svc.api.modeling import (
        Phi3ForCausalLM,
        Phi3ForSequenceClassification,
        Phi3ForTokenClassification,
        Phi3Model,
    )
    from phi3svc.api.modeling import Phi3ForCausalLM as AutoModelForCausalLM
    from phi3svc.api.modeling import (
        Phi3ForSequenceClassification as AutoModelForSequenceClassification,
    )
    from phi3svc.api.modeling import Phi3ForTokenClassification as AutoModelForTokenClassification
    from phi3svc.api.modeling import Phi3Model as AutoModel
    from phi3svc.api.pipeline import pipeline
    from phi3svc.api.pipelines.text_classification import TextClassificationPipeline
    from phi3svc.api.pipelines.text_generation import TextGenerationPipeline
    from phi3svc.api.pipelines.token_classification import TokenClassificationPipeline

_HOMES = {
    "AutoConfig": "phi3svc.api.configuration:Phi3Config",
    "AutoModel": "phi3svc.api.modeling:Phi3Model",
    "AutoModelForCausalLM": "phi3svc.api.modeling:Phi3ForCausalLM",
    "AutoModelForSequenceClassification": "phi3svc.api.modeling:Phi3ForSequenceClassification",
    "AutoModelForTokenClassification": "phi3svc.api.modeling:Phi3ForTokenClassification",
    "GenerationConfig": "phi3svc.api.generation_config:GenerationConfig",
    "Phi3Cache": "phi3svc.api.cache:Phi3Cache",
    "Phi3Config": "phi3svc.api.configuration:Phi3Config",
    "Phi3ForCausalLM": "phi3svc.api.modeling:Phi3ForCausalLM",
    "Phi3ForSequenceClassification": "phi3svc.api.modeling:Phi3ForSequenceClassification",
    "Phi3ForTokenClassification": "phi3svc.api.modeling:Phi3ForTokenClassification",
    "Phi3Model": "phi3svc.api.modeling:Phi3Model",
    "TextClassificationPipeline": (
        "phi3svc.api.pipelines.text_classification:TextClassificationPipeline"
    ),
    "TextGenerationPipeline": "phi3svc.api.pipelines.text_generation:TextGenerationPipeline",
    "TokenClassificationPipeline": (
        "phi3svc.api.pipelines.token_classification:TokenClassificationPipeline"
    ),
    "pipeline": "phi3svc.api.pipeline:pipeline",
}

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "GenerationConfig",
    "Phi3Cache",
    "Phi3Config",
    "Phi3ForCausalLM",
    "Phi3ForSequenceClassification",
    "Phi3ForTokenClassification",
    "Phi3Model",
    "TextClassificationPipeline",
    "TextGenerationPipeline",
    "TokenClassificationPipeline",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phi3svc' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
