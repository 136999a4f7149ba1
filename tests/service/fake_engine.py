"""An engine that answers by script: milliseconds, no weights, no torch.

It extends the real `EngineBase`, so that routing, cancellation and death behave as in production;
only the model is missing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from phi3svc.config.model import Phi3Config
from phi3svc.engine.async_engine import (
    EngineBase,
    LoadStatus,
    ModelInfo,
    ProgressCallback,
)
from phi3svc.engine.events import (
    FinishReason,
    PromptEvent,
    ScoresEvent,
    Timings,
    TokenEvent,
    TopLogprobs,
)
from phi3svc.engine.request import ClassifyRequest, GenerateRequest, Request

SPECIAL = ("<unk>", "<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>")
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n", "é"]
VOCAB = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
EOS_ID = VOCAB["<|endoftext|>"]
CONTEXT_LEN = 64
TIMINGS = Timings(
    queue_s=0.001,
    first_token_s=0.002,
    total_s=0.003,
    drafted_token_count=4,
    accepted_token_count=3,
)
SENTIMENT_LABELS = ("negative", "neutral", "positive")
ENTITY_LABELS = ("O", "B-NAME", "I-NAME")

Script = Callable[["FakeEngine", Request], Awaitable[None]]


def ids_of(text: str) -> list[int]:
    """One token per character."""
    return [VOCAB[character] for character in text]


def top_of(ids: list[int], num_tokens: int) -> list[TopLogprobs]:
    """The token itself and its neighbours, for each of them."""
    if not num_tokens:
        return []
    logprobs = [-0.5 * (1 + i) for i in range(num_tokens)]
    return [TopLogprobs([token_id + i for i in range(num_tokens)], logprobs) for token_id in ids]


class FakeEngine(EngineBase):
    """script: what happens to a submitted request; `echo` unless a test sets another."""

    def __init__(self, infos: Iterable[ModelInfo], max_open_sequences: int = 64) -> None:
        super().__init__(max_open_sequences)
        self._infos = list(infos)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.script: Script = echo
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.paused: list[str] = []
        self.resumed: list[str] = []
        self.stopped: list[int] = []

    @property
    def num_open(self) -> int:
        """Streams that hold engine resources."""
        return len(self._streams)

    async def start(self, on_progress: ProgressCallback | None = None) -> None:
        await self.may_start.wait()
        if on_progress is not None:
            on_progress(LoadStatus(self._infos[0].name, 1, 1))
        self._begin_serving(self._infos)

    async def close(self, grace_s: float = 5.0) -> None:
        self.die("the engine is closed")

    def die(self, message: str = "the engine died") -> None:
        for task in self._tasks.values():
            task.cancel()
        self._stop_serving(message)

    def say(
        self, request: Request, text: str, finish: FinishReason | None = None, index: int = 0
    ) -> None:
        """Emits a token per character, and eos behind them for finish `stop_token`."""
        assert isinstance(request, GenerateRequest)
        ids = ids_of(text) + ([EOS_ID] if finish == "stop_token" else [])
        logprobs = [-0.5] * len(ids) if request.want_logprobs else []
        timings = TIMINGS if finish else None
        top = top_of(ids, request.num_top_logprobs)
        self._dispatch([TokenEvent(request.request_id, ids, logprobs, finish, timings, index, top)])

    def tell_prompt(self, request: GenerateRequest, start: int, end: int) -> None:
        """Emits log probabilities of the prompt's tokens `start .. end`."""
        ids = request.prompt_ids[start:end]
        top = top_of(ids, request.num_top_logprobs)
        logprobs = [-0.25 * position for position in range(start, end)]
        self._dispatch([PromptEvent(request.request_id, start, logprobs, top)])

    def score(self, request: Request, scores: list[list[float]]) -> None:
        self._dispatch([ScoresEvent(request.request_id, scores, TIMINGS)])

    def _submit(self, request: Request) -> None:
        self.requests.append(request)
        self._tasks[request.request_id] = asyncio.ensure_future(self.script(self, request))

    def _pause(self, request_id: str) -> None:
        self.paused.append(request_id)

    def _resume(self, request_id: str) -> None:
        self.resumed.append(request_id)

    def _cancel(self, request_id: str, index: int | None = None) -> None:
        if index is not None:
            self.stopped.append(index)
            return
        self.cancelled.append(request_id)
        self._tasks[request_id].cancel()


async def echo(engine: FakeEngine, request: Request) -> None:
    """Repeats the prompt token by token, in each sequence; scores letters by case."""
    if isinstance(request, GenerateRequest):
        await _echo_tokens(engine, request)
    else:
        engine.score(request, _score(request))


async def _echo_tokens(engine: FakeEngine, request: GenerateRequest) -> None:
    text = "".join(character for character in map(_character, request.prompt_ids) if character)
    if request.want_prompt_logprobs:
        num_tokens = len(request.prompt_ids)
        for start in range(1, num_tokens, 2):
            engine.tell_prompt(request, start, min(start + 2, num_tokens))
            await asyncio.sleep(0)
    for character in text[: request.max_new_tokens]:
        await asyncio.sleep(0)
        for index in range(request.n):
            engine.say(request, character, index=index)
    has_room = len(text) < request.max_new_tokens
    stops = has_room and EOS_ID in request.stop_token_ids
    for index in range(request.n):
        engine.say(request, "", "stop_token" if stops else "length", index)


def _score(request: ClassifyRequest) -> list[list[float]]:
    text = [_character(token_id) for token_id in request.prompt_ids]
    if not request.per_token:
        return [[float(text.count("-")), 0.5, float(text.count("+"))]]
    scores = []
    for before, character in zip(["", *text], text, strict=False):
        label = 0 if not character.isupper() else 2 if before.isupper() else 1
        scores.append([4.0 if i == label else 0.0 for i in range(3)])
    return scores


def _character(token_id: int) -> str:
    return "" if token_id < len(SPECIAL) else CHARACTERS[token_id - len(SPECIAL)]


def write_checkpoint(folder: Path) -> Path:
    """The text side of a checkpoint: a tokenizer with one token per character."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(VOCAB, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def make_info(
    name: str,
    folder: Path,
    architecture: str = "Phi3ForCausalLM",
    generation: dict[str, object] | None = None,
    **config: object,
) -> ModelInfo:
    shape = {
        "model_type": "phi3",
        "architectures": [architecture],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": len(VOCAB),
        "max_position_embeddings": CONTEXT_LEN,
        "original_max_position_embeddings": CONTEXT_LEN,
        "eos_token_id": EOS_ID,
        "bos_token_id": VOCAB["<s>"],
        "pad_token_id": EOS_ID,
        "torch_dtype": "float32",
    }
    parsed = Phi3Config.from_dict(shape | config, generation)
    return ModelInfo(
        name=name,
        path=folder,
        config=parsed,
        max_context_len=CONTEXT_LEN,
        dtype="float32",
        fingerprint="f" * 64,
        tasks=frozenset({parsed.task}),
    )
