"""The served models with what the front needs of each: description, tokenizer, chat template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from phi3svc.engine.async_engine import ModelInfo
from phi3svc.errors import NotFound, UnsupportedTask
from phi3svc.service.validation import Violations
from phi3svc.text.chat import ChatTemplate
from phi3svc.text.stop_tokens import stop_token_ids
from phi3svc.text.tokenizer import Tokenizer

_MAX_NAMED = 10


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and its text side."""

    info: ModelInfo
    tokenizer: Tokenizer
    chat_template: ChatTemplate

    @classmethod
    def load(cls, info: ModelInfo) -> ServedModel:
        """Reads tokenizer and template from the checkpoint. Raises ConfigError."""
        return cls(info, Tokenizer.from_dir(info.path), ChatTemplate.from_dir(info.path))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """What ends an answer, ascending."""
        return stop_token_ids(self.info.config, self.tokenizer)


class Catalog:
    """Finds the model that a request means. Empty until the engine has loaded."""

    def __init__(self, models: Iterable[ServedModel] = ()) -> None:
        self._models = {model.info.name: model for model in models}

    def fill(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.info.name: model for model in models}

    def all(self) -> list[ServedModel]:
        """In the order given to the server."""
        return list(self._models.values())

    def can(self, task: str) -> bool:
        """Whether any model does this task."""
        return any(task in model.info.tasks for model in self._models.values())

    def find(self, name: str, task: str | None, violations: Violations) -> ServedModel | None:
        """The named model; for an empty name the only one with this task (of all when None).

        None, with a violation added, when an empty name is ambiguous. Raises NotFound, and
        UnsupportedTask when the model, or every one, lacks the task.
        """
        if name:
            model = self._models.get(name)
            if model is None:
                raise NotFound("model", name, tuple(self._models)[:_MAX_NAMED])
            if task is not None and task not in model.info.tasks:
                has = ", ".join(sorted(model.info.tasks))
                raise UnsupportedTask(f"model {name!r} cannot do {task}; it does {has}")
            return model
        able = [m for m in self._models.values() if task is None or task in m.info.tasks]
        if not able:
            raise UnsupportedTask(f"no model of this server can do {task}")
        if len(able) > 1:
            names = ", ".join(model.info.name for model in able[:_MAX_NAMED])
            violations.add("model", f"empty, must be one of {names}")
            return None
        return able[0]
