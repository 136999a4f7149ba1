"""Chat templates: golden prompts, equality with transformers, malformed messages and files."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from phi3svc.errors import ConfigError, InvalidRequest
from phi3svc.text.chat import MAX_MESSAGES, PHI3_TEMPLATE, ROLES, ChatTemplate
from tests.text import templates
from tests.text.conftest import byte_fallback_backend

TOKENS = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}

Messages = list[dict[str, str]]


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


CHAT = [system("Be brief."), user("Hi!"), assistant("Hello."), user("How are\nyou?")]

THINK = (
    "<|im_start|>system<|im_sep|>You are Phi, a language model trained by Microsoft to help "
    "users. Use: <think> {Thought section} </think> {Solution section}.<|im_end|>"
)

# (template, with the header of the assistant's turn, without)
GOLDEN = {
    "phi-3-mini": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|assistant|>\n",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|endoftext|>",
    ),
    "phi-3-mini-first": (
        "<s><|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|assistant|>\n",
    )
    * 2,
    "phi-3.5-mini": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|assistant|>\n",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|endoftext|>",
    ),
    "phi-3-medium": (
        "<|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|assistant|>\n",
    )
    * 2,
    "phi-3-small": (
        "<s><|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|assistant|>\n",
        "<s><|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHow are\nyou?<|end|>\n<|endoftext|>",
    ),
    "phi-4-first": (
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi!<|im_end|>"
        "<|im_start|>assistant<|im_sep|>Hello.<|im_end|><|im_start|>user<|im_sep|>How are\nyou?"
        "<|im_end|><|im_start|>assistant<|im_sep|>",
    )
    * 2,
    "phi-4": (
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi!<|im_end|>"
        "<|im_start|>assistant<|im_sep|>Hello.<|im_end|><|im_start|>user<|im_sep|>How are\nyou?"
        "<|im_end|><|im_start|>assistant<|im_sep|>",
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi!<|im_end|>"
        "<|im_start|>assistant<|im_sep|>Hello.<|im_end|><|im_start|>user<|im_sep|>How are\nyou?"
        "<|im_end|>",
    ),
    "phi-4-reasoning": (
        THINK * 4 + "<|im_start|>assistant<|im_sep|>",
        THINK * 4,
    ),
    "phi-4-mini": (
        "<|system|>Be brief.<|end|><|user|>Hi!<|end|><|assistant|>Hello.<|end|>"
        "<|user|>How are\nyou?<|end|><|assistant|>",
        "<|system|>Be brief.<|end|><|user|>Hi!<|end|><|assistant|>Hello.<|end|>"
        "<|user|>How are\nyou?<|end|><|endoftext|>",
    ),
    "phi-4-mini-reasoning": (
        "<|system|>Your name is Phi, an AI math expert developed by Microsoft. Be brief.<|end|>"
        "<|user|>Hi!<|end|><|assistant|>Hello.<|end|><|user|>How are\nyou?<|end|><|assistant|>",
        "<|system|>Your name is Phi, an AI math expert developed by Microsoft. Be brief.<|end|>"
        "<|user|>Hi!<|end|><|assistant|>Hello.<|end|><|user|>How are\nyou?<|end|><|endoftext|>",
    ),
}


@pytest.mark.parametrize("name", sorted(templates.FAMILY))
def test_templates_of_the_family_give_their_known_prompts(name: str) -> None:
    template = ChatTemplate(templates.FAMILY[name], TOKENS)
    prompts = template.render(CHAT), template.render(CHAT, add_generation_prompt=False)
    assert prompts == GOLDEN[name]


def test_phi_3_5_leaves_out_an_empty_system_turn() -> None:
    messages = [system(""), user("Hi!")]
    prompt = ChatTemplate(templates.PHI35_MINI, TOKENS).render(messages)
    assert prompt == "<|user|>\nHi!<|end|>\n<|assistant|>\n"
    assert ChatTemplate(templates.PHI3_MINI, TOKENS).render(messages).startswith("<|system|>\n<|")


def test_phi_4_reasoning_has_its_own_system_turn() -> None:
    prompt = ChatTemplate(templates.PHI4_REASONING, TOKENS).render(CHAT[1:])
    assert prompt == (
        THINK + "<|im_start|>user<|im_sep|>Hi!<|im_end|><|im_start|>assistant<|im_sep|>Hello."
        "<|im_end|><|im_start|>user<|im_sep|>How are\nyou?<|im_end|><|im_start|>assistant<|im_sep|>"
    )


def test_phi_4_mini_takes_tools_in_the_system_turn(
    transformers_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tools = '[{"name": "get_weather", "parameters": {"city": {"type": "str"}}}]'
    messages = [system("Use tools.") | {"tools": tools}, user("Hot in Oslo?")]
    prompt = ChatTemplate(templates.PHI4_MINI, TOKENS).render(messages)
    assert prompt == (
        f"<|system|>Use tools.<|tool|>{tools}<|/tool|><|end|><|user|>Hot in Oslo?<|end|>"
        "<|assistant|>"
    )
    for source in (templates.PHI4_MINI, templates.PHI4_MINI_REASONING):
        expected = transformers_tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=True
        )
        assert ChatTemplate(source, TOKENS).render(messages) == expected
    many = [system("Use tools.") | {"tools": tools * 50_000}, user("Hot in Oslo?")]
    assert len(ChatTemplate(templates.PHI4_MINI, TOKENS).render(many)) > 3_000_000


def test_built_in_template_is_that_of_phi_3_mini() -> None:
    assert [ChatTemplate(PHI3_TEMPLATE, TOKENS).render(CHAT, flag) for flag in (True, False)] == [
        *GOLDEN["phi-3-mini"]
    ]


@pytest.fixture(scope="module")
def transformers_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=byte_fallback_backend(), **TOKENS)


@lru_cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, TOKENS)


def alternates(messages: Messages) -> bool:
    """Whether no role follows itself, a system message at the start set aside."""
    roles = [message["role"] for message in messages]
    roles = roles[1:] if roles[0] == "system" else roles
    return all(a != b for a, b in pairwise(roles))


CONTENT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "{{ eos_token }}", "{% raw %}", "<|end|>\n", "a</think>\n b\t"]),
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": CONTENT}),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize(
    "source",
    [*templates.FAMILY.values(), PHI3_TEMPLATE, templates.ELABORATE],
    ids=[*templates.FAMILY, "built-in", "elaborate"],
)
@settings(max_examples=30, deadline=None)
@given(messages=MESSAGES, add_generation_prompt=st.booleans())
def test_prompts_equal_those_of_transformers(
    transformers_tokenizer: PreTrainedTokenizerFast,
    source: str,
    messages: Messages,
    add_generation_prompt: bool,
) -> None:
    template = compiled(source)
    if source == templates.ELABORATE and not alternates(messages):
        with pytest.raises(InvalidRequest, match="must alternate"):
            template.render(messages, add_generation_prompt)
        return
    expected = transformers_tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    assert template.render(messages, add_generation_prompt) == expected


def test_refusals_of_the_template_reach_the_caller() -> None:
    with pytest.raises(InvalidRequest) as error:
        ChatTemplate(templates.ELABORATE, TOKENS).render([user("a"), user("b")])
    (violation,) = error.value.violations
    assert violation.field == "chat.messages"
    assert "Conversation roles must alternate, got two of user" in violation.description


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "chat.messages"),
        ([user("x")] * (MAX_MESSAGES + 1), "chat.messages"),
        ([user("a"), {"role": "User", "content": "b"}], "chat.messages[1].role"),
        ([{"role": "", "content": "b"}], "chat.messages[0].role"),
    ],
)
def test_bad_messages_are_named(messages: Messages, field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        ChatTemplate(PHI3_TEMPLATE, TOKENS).render(messages)
    assert [violation.field for violation in error.value.violations] == [field]


def test_the_clock_is_out_of_reach() -> None:
    template = ChatTemplate("{{ strftime_now('%Y') }}", TOKENS)
    with pytest.raises(InvalidRequest, match="'strftime_now' is undefined"):
        template.render([user("x")])


def test_the_template_file_goes_before_the_tokenizer_config(tmp_path: Path) -> None:
    def prompt() -> str:
        return ChatTemplate.from_dir(tmp_path).render([user("x")])

    assert prompt() == "<|user|>\nx<|end|>\n<|assistant|>\n"
    config = {"chat_template": "config {{ eos_token }}", "eos_token": {"content": "E"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert prompt() == "config E"
    config["chat_template"] = [  # type: ignore[assignment]
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "default {{ eos_token }}"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert prompt() == "default E"
    (tmp_path / "chat_template.jinja").write_text("file {{ eos_token }}")
    assert prompt() == "file E"


@pytest.mark.parametrize(
    "content",
    [
        b"{% for %}",
        b"{{ ",
        b"{{ 'a' | nosuch }}",
        b"{% include 'x' %}",
        b"{% import 'x' as y %}",
        b"{% extends 'x' %}",
        b"{% for x in messages recursive %}{{ loop(x) }}{% endfor %}",
        b"{{ " + b"(" * 5000 + b")" * 5000 + b" }}",
        b"{% if true %}" * 2000 + b"{% endif %}" * 2000,
        b"x" * (1 << 17),
        b"\xff",
    ],
)
def test_bad_templates_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(ConfigError, match=r"chat_template\.jinja: [^\n]+$"):
        ChatTemplate.from_dir(tmp_path)


@pytest.mark.parametrize(
    "value", [3, {}, [3], [{"name": "default"}], [{"name": "x"}], [{"name": []}]]
)
def test_templates_that_are_no_text_are_refused_or_built_in(tmp_path: Path, value: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    if isinstance(value, list):
        assert ChatTemplate.from_dir(tmp_path).render([user("x")]).startswith("<|user|>")
    else:
        with pytest.raises(ConfigError, match="chat_template must be a text"):
            ChatTemplate.from_dir(tmp_path)
