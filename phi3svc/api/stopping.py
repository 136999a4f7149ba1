"""When answers end besides their stop tokens and lengths: time, strings, the caller's criteria."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.generation_inputs import Prompts
from phi3svc.errors import InvalidRequest
from phi3svc.text.tokenizer import Tokenizer

StoppingCriterion = Callable[..., Any]
"""Called with input_ids, int64 [1, L], and None for scores, like transformers' StoppingCriteria."""

_MAX_BYTES_PER_CHAR = 4
_SPARE_TOKENS = 4


class Stopping:
    """Of the answers of one call. max_time counts from when this is made."""

    def __init__(
        self,
        prompts: Prompts,
        settings: GenerationConfig,
        criteria: StoppingCriterion | Iterable[StoppingCriterion] | None,
        tokenizer: Any,
    ) -> None:
        """tokenizer: transformers' or this package's; only stop_strings need one."""
        self._prompts = prompts
        self._criteria: list[StoppingCriterion] = []
        # A StoppingCriteriaList can be called itself, but one by one they can be named.
        if isinstance(criteria, Iterable):
            self._criteria += criteria
        elif criteria is not None:
            self._criteria.append(criteria)
        if not all(map(callable, self._criteria)):
            raise InvalidRequest.of("stopping_criteria", "one of them cannot be called")
        self._strings: StopStrings | None = None
        if settings.stop_strings is not None:
            self._strings = StopStrings(settings.stop_strings, tokenizer)
        self._columns = prompts.columns.tolist() if self._criteria else []
        started_s = time.monotonic()
        self._end_s = None if settings.max_time is None else started_s + settings.max_time

    @property
    def looks_at_tokens(self) -> bool:
        """Whether `ends` can ever be true."""
        return bool(self._criteria) or self._strings is not None

    def is_time_up(self) -> bool:
        return self._end_s is not None and time.monotonic() > self._end_s

    def ends(self, row: int, answer: Sequence[int]) -> bool:
        """Whether an answer to prompt `row` ends with the last of its tokens."""
        if self._strings and self._strings.are_completed(self._prompts.rows[row], answer):
            return True
        if not self._criteria:
            return False
        # With the padding, as the caller knows it: criteria count from the prompt's width.
        input_ids = torch.tensor([[*self._columns[row], *answer]])
        # All are asked, since some keep count.
        votes = [self._says_stop(criterion, input_ids) for criterion in self._criteria]
        return any(votes)

    @staticmethod
    def _says_stop(criterion: StoppingCriterion, input_ids: torch.Tensor) -> bool:
        answer = torch.as_tensor(criterion(input_ids, None))
        if answer.numel() != 1:
            name = getattr(criterion, "__name__", type(criterion).__name__)
            text = f"{name} gave shape {list(answer.shape)}, not one boolean for the one sequence"
            raise InvalidRequest.of("stopping_criteria", text)
        return bool(answer)


class StopStrings:
    """Strings that end an answer with the token that completes one of them.

    As in transformers, such a string may begin in the prompt, and end inside the last token.
    """

    def __init__(self, strings: str | Sequence[str], tokenizer: Any) -> None:
        if not hasattr(tokenizer, "decode"):
            raise InvalidRequest.of("tokenizer", "needed to find stop_strings in what is generated")
        self._strings = [strings] if isinstance(strings, str) else strings
        self._tokenizer = tokenizer
        # As many tokens as the longest one can be spread over, and the one before them: the first
        # of a text may lose its leading blank.
        self._num_tokens = _MAX_BYTES_PER_CHAR * max(map(len, self._strings)) + _SPARE_TOKENS

    def are_completed(self, prompt_ids: Sequence[int], answer: Sequence[int]) -> bool:
        """Whether one ends inside the last token of `answer`."""
        tail = list(answer[-self._num_tokens :])
        num_missing = self._num_tokens - len(tail)
        if num_missing > 0:
            tail = [*prompt_ids[-num_missing:], *tail]
        before, text = self._decode(tail[:-1]), self._decode(tail)
        num_old = len(before)
        while not text.startswith(before[:num_old]):
            num_old -= 1  # the last token may have completed a character, or several
        return any(
            text.find(string, max(0, num_old - len(string) + 1)) >= 0 for string in self._strings
        )

    def _decode(self, token_ids: list[int]) -> str:
        if isinstance(self._tokenizer, Tokenizer):
            return self._tokenizer.decode(token_ids, skip_special=False)
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))
