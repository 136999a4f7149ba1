"""ModelService: what this server has loaded."""

from __future__ import annotations

import grpc.aio

from phi3svc.service.catalog import Catalog, ServedModel
from phi3svc.service.validation import Violations
from phi3svc.v1 import model_service_pb2, model_service_pb2_grpc

_TASKS = {
    "generation": model_service_pb2.TASK_GENERATION,
    "sequence-classification": model_service_pb2.TASK_SEQUENCE_CLASSIFICATION,
    "token-classification": model_service_pb2.TASK_TOKEN_CLASSIFICATION,
}


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> model_service_pb2.ListModelsResponse:
        models = [_to_model(model) for model in self._catalog.all()]
        return model_service_pb2.ListModelsResponse(models=models)

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> model_service_pb2.GetModelResponse:
        violations = Violations()
        model = self._catalog.find(request.model, None, violations)
        violations.raise_if_any()
        assert model is not None  # else there is a violation
        return model_service_pb2.GetModelResponse(model=_to_model(model))


def _to_model(model: ServedModel) -> model_service_pb2.Model:
    info, config = model.info, model.info.config
    is_classifier = info.tasks & {"sequence-classification", "token-classification"}
    return model_service_pb2.Model(
        name=info.name,
        tasks=[number for task, number in _TASKS.items() if task in info.tasks],
        architecture=config.architecture,
        dtype=info.dtype,
        max_context_token_count=info.max_context_len,
        vocab_size=config.vocab_size,
        parameter_count=config.num_params,
        labels=config.labels if is_classifier else (),
        fingerprint=info.fingerprint,
    )
