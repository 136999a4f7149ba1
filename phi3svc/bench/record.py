"""What happened to one request, and the latencies that follow from it.

All times are seconds since the start of the run. Latencies count from the intended arrival: in an
open loop a request that had to be sent late, because client or server were busy, has waited, and
leaving that out (coordinated omission) would hide exactly the stalls one is looking for. In a
closed loop the intended arrival is the moment of sending.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class Message:
    """New tokens that came together: at least one."""

    time_s: float
    num_tokens: int


@dataclass
class RequestRecord:
    """One request. status: "OK" or the name of a gRPC status; error: its one-line message."""

    intended_s: float
    sent_s: float
    end_s: float = 0.0
    messages: list[Message] = field(default_factory=list)
    status: str = "OK"
    error: str = ""

    @property
    def is_ok(self) -> bool:
        return self.status == "OK"

    @property
    def num_tokens(self) -> int:
        return sum(message.num_tokens for message in self.messages)

    @property
    def send_delay_s(self) -> float:
        return self.sent_s - self.intended_s

    @property
    def total_s(self) -> float:
        """Until the stream had ended."""
        return self.end_s - self.intended_s

    @property
    def first_token_s(self) -> float | None:
        """Time to first token; None without one."""
        return self.messages[0].time_s - self.intended_s if self.messages else None

    @property
    def per_output_token_s(self) -> float | None:
        """Mean time between tokens, (last − first) / (tokens − 1); None with fewer than two."""
        if self.num_tokens < 2:
            return None
        return (self.messages[-1].time_s - self.messages[0].time_s) / (self.num_tokens - 1)

    def message_gaps_s(self) -> list[float]:
        """Between each message and the one before."""
        times = [message.time_s for message in self.messages]
        return [after - before for before, after in pairwise(times)]

    def token_gaps_s(self) -> list[float]:
        """The same per token: a gap of g before n tokens counts as n gaps of g / n.

        Tokens that came along with the first one have no gap of their own and are left out.
        """
        gaps = zip(self.message_gaps_s(), self.messages[1:], strict=True)
        return [gap / m.num_tokens for gap, m in gaps for _ in range(m.num_tokens)]
