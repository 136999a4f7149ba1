"""Which tokens end an answer."""

from __future__ import annotations

from phi3svc.config.model import Phi3Config
from phi3svc.text.tokenizer import Tokenizer


def stop_token_ids(config: Phi3Config, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ascending: the ids of the config's two files, and the tokenizer's end.

    Some checkpoints name the end of a turn in only one of the three files.
    """
    own = tokenizer.eos_token_id
    added = {own} if own is not None and own < config.vocab_size else set()
    return tuple(sorted({*config.eos_token_ids, *added}))
