"""The shipped generator, run by our own engine, on questions that training never showed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec
from phi3svc.embedded.training.corpus_chat import Dialogue, dialogues, held_out_dialogues
from phi3svc.embedded.training.stories import parses
from phi3svc.engine.local import LocalEngine
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.text.chat import ChatTemplate
from phi3svc.text.tokenizer import Tokenizer

NUM_DIALOGUES = 480
NUM_STORIES = 60
MAX_NEW_TOKENS = 220
MIN_SCORE = 0.95
# Beyond the boundary lie the later turns of conversations, whose questions lean on earlier ones.
MIN_SIDE_SCORE = 0.85


@dataclass(frozen=True)
class Answer:
    """What the model said to the last question of a dialogue; num_tokens counts the prompt too."""

    dialogue: Dialogue
    text: str
    is_ended: bool
    num_tokens: int

    @property
    def kind(self) -> str:
        return self.dialogue.turns[-1].kind

    @property
    def is_right(self) -> bool:
        return self.is_ended and self.dialogue.turns[-1].accepts(self.text)


def messages(dialogue: Dialogue) -> list[dict[str, str]]:
    """The conversation up to and with the last question."""
    found = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
    for turn in dialogue.turns:
        found.append({"role": "user", "content": turn.question})
        found.append({"role": "assistant", "content": turn.answer})
    return found[:-1]


class Chat:
    """The embedded generator on an engine in this process."""

    def __init__(self, engine: LocalEngine) -> None:
        folder = resolve_source("demo").path
        self.engine = engine
        self.tokenizer = Tokenizer.from_dir(folder)
        self.template = ChatTemplate.from_dir(folder)
        self.stop_ids = list(engine.models["demo"].config.eos_token_ids)

    async def answer(self, dialogue: Dialogue, sampling: SamplingParams, name: str) -> Answer:
        prompt = self.template.render(messages(dialogue), add_generation_prompt=True)
        request = GenerateRequest(
            request_id=name,
            model="demo",
            prompt_ids=self.tokenizer.encode(prompt),
            sampling=sampling,
            max_new_tokens=MAX_NEW_TOKENS,
            stop_token_ids=self.stop_ids,
        )
        ids: list[int] = []
        async for event in self.engine.generate(request):
            ids += event.token_ids
            finish = event.finish
        is_ended = finish == "stop_token" and self.tokenizer.token_text(ids[-1]) == "<|end|>"
        text = self.tokenizer.decode(ids[:-1] if is_ended else ids)
        return Answer(dialogue, text, is_ended, len(request.prompt_ids) + len(ids))


@dataclass(frozen=True)
class Session:
    """All that the model was asked. original_len: LongRoPE's boundary, in tokens."""

    original_len: int
    answers: list[Answer]
    sampled_stories: list[Answer]


async def _ask_everything() -> Session:
    engine = LocalEngine([ModelSpec("demo", "demo")], EngineConfig())
    await engine.start()
    try:
        chat = Chat(engine)
        stories = [d for d in held_out_dialogues(1500, seed=5) if d.turns[-1].kind == "story"]
        asked = [(dialogue, SamplingParams()) for dialogue in held_out_dialogues(NUM_DIALOGUES)]
        asked += [
            (dialogue, SamplingParams(temperature=0.6, seed=seed))
            for seed, dialogue in enumerate(stories[:NUM_STORIES])
        ]
        answers = await asyncio.gather(
            *(chat.answer(dialogue, params, str(i)) for i, (dialogue, params) in enumerate(asked))
        )
        original_len = engine.models["demo"].config.original_max_position_embeddings
        return Session(original_len, answers[:NUM_DIALOGUES], answers[NUM_DIALOGUES:])
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def session() -> Session:
    """Greedy answers to held-out questions, and sampled stories, all in one engine at once."""
    return asyncio.run(_ask_everything())


def assert_mostly_right(answers: Sequence[Answer], min_share: float = MIN_SCORE) -> None:
    """A failure lists what was asked and what the model said to it."""
    wrong = [
        f"{answer.dialogue.turns[-1].question!r}: {answer.text!r}"
        for answer in answers
        if not answer.is_right
    ]
    assert len(wrong) <= (1 - min_share) * len(answers), "\n".join(wrong)


def test_answers_end(session: Session) -> None:
    """With <|end|>, within the budget."""
    assert [answer.text for answer in session.answers if not answer.is_ended] == []


def test_facts_are_right(session: Session) -> None:
    facts = [answer for answer in session.answers if answer.kind in ("fact", "follow_up")]
    assert len(facts) >= 80
    assert_mostly_right(facts)


def test_answers_of_every_kind_are_right(session: Session) -> None:
    kinds = {answer.kind for answer in session.answers}
    assert kinds == {"fact", "follow_up", "talk", "unknown", "story"}
    assert_mostly_right(session.answers)


def test_both_longrope_sets_answer_well(session: Session) -> None:
    for is_long in (False, True):
        side = [a for a in session.answers if (a.num_tokens > session.original_len) == is_long]
        assert len(side) >= 20
        assert_mostly_right(side, MIN_SIDE_SCORE)


def test_answers_use_words_of_the_domain(session: Session) -> None:
    """Next to nothing is misspelt: words are those that the training text has."""
    stream = dialogues(seed=1)
    known = {
        word
        for _ in range(4000)
        for turn in next(stream).turns
        for word in _words(turn.question + " " + turn.answer)
    }
    answers = [answer.text for answer in session.answers]
    misspelt = [text for text in answers if not known.issuperset(_words(text))]
    assert len(misspelt) <= 0.01 * len(answers), "\n".join(misspelt)


def test_sampled_stories_follow_the_grammar(session: Session) -> None:
    """At temperature 0.6 a story may lose one of its heroes, and still is a story."""
    assert len(session.sampled_stories) == NUM_STORIES
    ill_formed = [story.text for story in session.sampled_stories if not parses(story.text)]
    assert len(ill_formed) <= 0.1 * NUM_STORIES, "\n".join(ill_formed)
    assert len({answer.text for answer in session.sampled_stories}) > NUM_STORIES // 2


def _words(text: str) -> list[str]:
    return [word.strip('.,!?:"-').lower() for word in text.split()]
