"""Trains a Llama-style BPE with byte fallback, in Phi-3's layout, on generated text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
END_OF_TEXT, ASSISTANT, SYSTEM, END, USER = (
    "<|endoftext|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|user|>",
)
ADDED = (END_OF_TEXT, ASSISTANT, SYSTEM, END, USER)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content']"
    " + '<|end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PRINTABLE = [chr(code) for code in range(0x21, 0x7F)] + ["▁"]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns merges from `texts` and returns a tokenizer of exactly `vocab_size` ids.

    Ids 0-2 are <unk>, <s>, </s>; 3-258 the bytes; then merges' results; the chat markers come last.
    As in Llama, no merge crosses a word, so none is undone by leaving out the pre-tokenizer later.
    """
    learner = Tokenizer(BPE(unk_token=UNK))
    learner.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    words = r"▁?\p{L}+|▁?\p{N}|▁?[^\p{L}\p{N}▁]|▁"
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(words), "isolated")  # type: ignore[assignment]
    num_learned = vocab_size - 3 - 256 - len(ADDED)
    learner.train_from_iterator(
        ("▁" + text for text in texts),
        BpeTrainer(
            vocab_size=num_learned,
            initial_alphabet=PRINTABLE,
            limit_alphabet=len(PRINTABLE),
            show_progress=False,
        ),
    )
    state = json.loads(learner.to_str())["model"]
    learned = sorted(state["vocab"], key=state["vocab"].__getitem__)
    pieces = [UNK, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    if len(pieces) + len(ADDED) != vocab_size:
        raise ValueError(f"only {len(learned)} of {num_learned} pieces could be learned")
    tokenizer = Tokenizer(
        BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[tuple(merge) for merge in state["merges"]],
            unk_token=UNK,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (UNK, BOS)]
    )
    tokenizer.add_tokens([AddedToken(EOS, rstrip=True, normalized=False, special=False)])
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False, rstrip=t != END_OF_TEXT) for t in ADDED]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path, max_len: int, is_chat: bool) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `out`."""
    tokenizer.save(str(out / "tokenizer.json"))
    config: dict[str, object] = {
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
        "bos_token": BOS,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": UNK,
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": max_len,
        "padding_side": "left" if is_chat else "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if is_chat:
        config["chat_template"] = CHAT_TEMPLATE
    names = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    for file_name, content in (
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", names),
    ):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (out / file_name).write_text(text + "\n", encoding="utf-8")
