"""`demo`: Juniper, a small almanac that chats."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedModel

from phi3svc.embedded.training.architecture import phi3_config
from phi3svc.embedded.training.batches import IGNORED, Batch, Encoded
from phi3svc.embedded.training.corpus_chat import Dialogue, dialogues, held_out_dialogues
from phi3svc.embedded.training.recipe import Recipe, Scores
from phi3svc.embedded.training.stories import any_story
from phi3svc.embedded.training.tokenizer import ASSISTANT, END, END_OF_TEXT, SYSTEM, USER

VOCAB_SIZE = 1280
ORIGINAL_LEN = 128
MAX_LEN = 512
"""Training rows are cut here; longer dialogues are rare."""
RAW_STORY_SHARE = 0.02


def render(dialogue: Dialogue, num_turns: int) -> str:
    """The prompt for the answer of turn `num_turns`, as the chat template renders it."""
    parts = [f"{SYSTEM}\n{dialogue.system}{END}\n"] if dialogue.system else []
    for turn in dialogue.turns[: num_turns - 1]:
        parts.append(f"{USER}\n{turn.question}{END}\n{ASSISTANT}\n{turn.answer}{END}\n")
    parts.append(f"{USER}\n{dialogue.turns[num_turns - 1].question}{END}\n{ASSISTANT}\n")
    return "".join(parts)


def encode(tokenizer: Tokenizer, dialogue: Dialogue) -> Encoded:
    """Ids of the whole dialogue; only the answers and their <|end|> are learned."""
    marker = {token: tokenizer.token_to_id(token) for token in (USER, ASSISTANT, SYSTEM, END)}
    ids: list[int] = []
    labels: list[int] = []

    def say(role: str, text: str) -> None:
        words = [*tokenizer.encode(text).ids, marker[END]]
        ids.extend([marker[role], *words])
        labels.append(IGNORED)
        labels.extend(words if role == ASSISTANT else [IGNORED] * len(words))

    if dialogue.system:
        say(SYSTEM, dialogue.system)
    for turn in dialogue.turns:
        say(USER, turn.question)
        say(ASSISTANT, turn.answer)
    return Encoded(ids[:MAX_LEN], labels[:MAX_LEN])


def encode_story(tokenizer: Tokenizer, text: str) -> Encoded:
    """A story without a chat around it, so that a plain prompt can be continued too."""
    ids = [*tokenizer.encode(text).ids, tokenizer.token_to_id(END_OF_TEXT)]
    return Encoded(ids, ids)


def _config(tokenizer: Tokenizer) -> Phi3Config:
    end = tokenizer.token_to_id(END_OF_TEXT)
    return phi3_config(
        vocab_size=VOCAB_SIZE,
        num_layers=4,
        intermediate_size=384,
        original_len=ORIGINAL_LEN,
        end_id=end,
        pad_id=end,
        tie_word_embeddings=True,
    )


def _texts(seed: int) -> Iterator[str]:
    for dialogue in dialogues(seed):
        for turn in dialogue.turns:
            yield turn.question
            yield turn.answer


def _rows(tokenizer: Tokenizer, seed: int) -> Iterator[Encoded]:
    """Dialogues, with a few stories in between.

    Long dialogues are at times cut at the boundary: what a server sees before it crosses.
    """
    rng = random.Random(seed)
    for dialogue in dialogues(seed):
        if rng.random() < RAW_STORY_SHARE:
            yield encode_story(tokenizer, any_story(rng))
        row = encode(tokenizer, dialogue)
        if len(row.token_ids) > ORIGINAL_LEN and rng.random() < 0.3:
            row = Encoded(row.token_ids[:ORIGINAL_LEN], row.labels[:ORIGINAL_LEN])
        yield row


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """Next-token loss of the answers; the head runs only where something is learned."""
    hidden = model.model(input_ids=batch.token_ids, use_cache=False).last_hidden_state
    targets = batch.labels[:, 1:]
    is_learned = targets != IGNORED
    logits = model.lm_head(hidden[:, :-1][is_learned]).float()
    return nn.functional.cross_entropy(logits, targets[is_learned])


def _score(model: PreTrainedModel, tokenizer: Tokenizer) -> Scores:
    """Share of right answers to unseen questions by kind, greedy, and of answers that end."""
    stop = tokenizer.token_to_id(END)
    hits: dict[str, list[bool]] = defaultdict(list)
    for dialogue in held_out_dialogues(250):
        turn = dialogue.turns[-1]
        ids = tokenizer.encode(render(dialogue, len(dialogue.turns))).ids
        if len(ids) > MAX_LEN:
            continue
        with torch.inference_mode():
            output = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=200,
                do_sample=False,
            )[0, len(ids) :].tolist()
        is_ended = output[-1] == stop
        is_right = is_ended and turn.accepts(tokenizer.decode(output[:-1]))
        side = "right_short" if len(ids) + len(output) <= ORIGINAL_LEN else "right_long"
        for name in (f"right_{turn.kind}", "right", side):
            hits[name].append(is_right)
        hits["ended"].append(is_ended)
        if not is_right:
            print(f"    wrong {turn.question!r}: {tokenizer.decode(output)!r}", flush=True)
    return {name: sum(values) / len(values) for name, values in sorted(hits.items())}


CHAT = Recipe(
    name="demo",
    title="Juniper, a small almanac that chats",
    summary=(
        "Answers questions about forty plants, thirty animals, the planets, some dishes and the "
        "weather; tells animal stories; says so when it does not "
        "know. Chat format of Phi-3; answers end with <|end|>."
    ),
    vocab_size=VOCAB_SIZE,
    original_len=ORIGINAL_LEN,
    num_steps=2100,
    tokens_per_batch=2048,
    is_chat=True,
    model_class=Phi3ForCausalLM,
    config=_config,
    texts=_texts,
    rows=_rows,
    loss=_loss,
    score=_score,
)
