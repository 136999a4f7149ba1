"""The special tokens of Phi-3-small: those of cl100k_base, its chat markers, and padding.

Source: tokenization_phi3_small.py of microsoft/Phi-3-small-8k-instruct. They fill the 96 ids from
the end of cl100k_base's ranks to the padded vocabulary of 100352.
"""

from __future__ import annotations

NUM_RANKS = 100256
VOCAB_SIZE = 100352

_NAMED = {
    100257: "<|endoftext|>",
    100258: "<|fim_prefix|>",
    100259: "<|fim_middle|>",
    100260: "<|fim_suffix|>",
    100261: "<|system|>",
    100262: "<|user|>",
    100263: "<|assistant|>",
    100266: "<|end|>",
    100276: "<|endofprompt|>",
}
_CHAT_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

# Ids without a name are padding, numbered in the order in which the original found them.
_UNNAMED = (100264, 100265, 100256, *range(100267, 100276), *range(100277, VOCAB_SIZE))

SPECIAL_TOKENS: dict[str, int] = {token: id for id, token in _NAMED.items()} | {
    f"<|dummy_id_{number}|>": id for number, id in enumerate(_UNNAMED)
}

# Never to be generated: the original sets their logits to minus infinity.
DUMMY_TOKEN_IDS: tuple[int, ...] = tuple(
    sorted(id for token, id in SPECIAL_TOKENS.items() if token not in _CHAT_TOKENS)
)
