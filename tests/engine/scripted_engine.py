"""An engine client whose tokens a test deals out by hand."""

from __future__ import annotations

from phi3svc.config.model import Phi3Config
from phi3svc.engine.async_engine import EngineBase, ModelInfo, ProgressCallback
from phi3svc.engine.events import FinishReason, PromptEvent, Timings, TokenEvent, TopLogprobs
from phi3svc.engine.request import GenerateRequest, Request


class ScriptedEngine(EngineBase):
    """Says for the newest request what `say` is told; remembers what was cancelled."""

    def __init__(self, info: ModelInfo, max_open_sequences: int = 8) -> None:
        super().__init__(max_open_sequences)
        self._info = info
        self.submitted: list[Request] = []
        self.cancelled: list[str] = []
        self.paused: list[str] = []
        self.resumed: list[str] = []
        self.stopped: list[int] = []

    async def start(self, on_progress: ProgressCallback | None = None) -> None:
        self._begin_serving([self._info])

    async def close(self, grace_s: float = 5.0) -> None:
        self._stop_serving("closed")

    @property
    def num_open(self) -> int:
        return len(self._streams)

    def say(self, token_ids: list[int], finish: FinishReason | None = None, index: int = 0) -> None:
        """Each sequence has had 10 tokens guessed for it, as many of them right as its index."""
        request = self.submitted[-1]
        assert isinstance(request, GenerateRequest)
        timings = Timings(0.25, 0.5, 1.0, drafted_token_count=10, accepted_token_count=index)
        logprobs = [-0.01 * token_id for token_id in token_ids]
        top = [top_of(i, request.num_top_logprobs) for i in token_ids if request.num_top_logprobs]
        self._dispatch(
            [TokenEvent(request.request_id, token_ids, logprobs, finish, timings, index, top)]
        )

    def tell_prompt(self, start: int, end: int) -> None:
        """Log probabilities of the prompt's tokens `start .. end`."""
        request = self.submitted[-1]
        assert isinstance(request, GenerateRequest)
        token_ids = request.prompt_ids[start:end]
        logprobs = [-0.01 * token_id for token_id in token_ids]
        top = [top_of(i, request.num_top_logprobs) for i in token_ids if request.num_top_logprobs]
        self._dispatch([PromptEvent(request.request_id, start, logprobs, top)])

    def _submit(self, request: Request) -> None:
        self.submitted.append(request)

    def _pause(self, request_id: str) -> None:
        self.paused.append(request_id)

    def _resume(self, request_id: str) -> None:
        self.resumed.append(request_id)

    def _cancel(self, request_id: str, index: int | None = None) -> None:
        if index is not None:
            self.stopped.append(index)
            return
        self.cancelled.append(request_id)


def top_of(token_id: int, num_tokens: int) -> TopLogprobs:
    """What the script has for a place where this token came."""
    return TopLogprobs([token_id + i for i in range(num_tokens)], [-0.5] * num_tokens)


def make_info(config: Phi3Config, **changes: object) -> ModelInfo:
    fields = {
        "name": "tiny",
        "path": None,
        "config": config,
        "max_context_len": 64,
        "dtype": "float32",
        "fingerprint": "ab" * 32,
        "tasks": frozenset({"generation"}),
    }
    return ModelInfo(**(fields | changes))  # type: ignore[arg-type]
