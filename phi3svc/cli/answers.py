"""Gathers what a stream says of each answer, for commands that show it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field

from phi3svc.engine.events import Delta, Finished, TopLogprobs


@dataclass
class Tokens:
    """Tokens with their log probabilities; logprobs, top: one per token, or empty."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[TopLogprobs] = field(default_factory=list)

    def all_ids(self) -> set[int]:
        """Those that came and those that might have."""
        return {*self.token_ids, *(token_id for top in self.top for token_id in top.token_ids)}

    def record(self) -> dict[str, object]:
        """What there is, for JSON."""
        record: dict[str, object] = {"token_ids": self.token_ids}
        if self.logprobs:
            record["logprobs"] = self.logprobs
        if self.top:
            record["top_logprobs"] = [
                {"token_ids": top.token_ids, "logprobs": top.logprobs} for top in self.top
            ]
        return record


@dataclass
class Answer:
    """One of a request's answers. end: None while it comes."""

    index: int
    text: str = ""
    tokens: Tokens = field(default_factory=Tokens)
    end: Finished | None = None

    def take(self, event: Delta | Finished) -> None:
        if isinstance(event, Finished):
            self.end = event
            return
        self.text += event.text
        self.tokens.token_ids += event.token_ids
        self.tokens.logprobs += event.logprobs
        self.tokens.top += event.top

    def record(self) -> dict[str, object]:
        """What there is, for JSON."""
        record = self.tokens.record()
        if self.end is not None:
            record |= {"finish_reason": self.end.reason, "digest": self.end.digest}
        return record | {"text": self.text}
