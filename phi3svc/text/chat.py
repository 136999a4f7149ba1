"""Turns a conversation into a prompt, by the checkpoint's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from phi3svc.config.files import read_file
from phi3svc.errors import ConfigError, InvalidRequest
from phi3svc.text.sandbox import ChatEnvironment
from phi3svc.text.special_tokens import read_special_tokens, read_tokenizer_config

# Of Phi-3-mini; for a checkpoint that brings none.
PHI3_TEMPLATE = """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\n' }}
{%- else %}
{{ eos_token }}
{%- endif %}
"""

ROLES = ("system", "user", "assistant")
MAX_TEMPLATE_BYTES = 64 << 10
MAX_MESSAGES = 1024

# Work allowed to a render: a multiple of what templates of the family need.
UNITS = 2_000_000
UNITS_PER_MESSAGE = 4096
UNITS_PER_CHARACTER = 64


class ChatTemplate:
    """A template and the special tokens it prints. The prompt depends on nothing else."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], where: str = "chat template"
    ) -> None:
        """source: Jinja as transformers takes it. where: its place, for messages.

        ConfigError when it is too large, malformed, or does what no chat template needs.
        """
        if len(source) > MAX_TEMPLATE_BYTES or len(source.encode()) > MAX_TEMPLATE_BYTES:
            raise ConfigError(f"{where}: larger than {MAX_TEMPLATE_BYTES} bytes")
        try:
            self._program = ChatEnvironment().compile_chat(source)
        except Exception as error:  # the template's fault, of whatever kind: nothing else runs here
            raise ConfigError(f"{where}: {_first_line(error)}") from None
        self._special_tokens = dict(special_tokens)

    @classmethod
    def from_dir(cls, path: Path) -> Self:
        """From chat_template.jinja, else tokenizer_config.json, else the built-in of Phi-3."""
        special_tokens = read_special_tokens(path)
        file = path / "chat_template.jinja"
        if file.exists():
            return cls(_read(file), special_tokens, str(file))
        value = read_tokenizer_config(path).get("chat_template")
        if isinstance(value, list):  # several, by name
            items = [item for item in value if isinstance(item, dict)]
            named = [item.get("template") for item in items if item.get("name") == "default"]
            value = named[-1] if named else None
        where = str(path / "tokenizer_config.json") + ": chat_template"
        if value is None:
            value = PHI3_TEMPLATE
        if not isinstance(value, str):
            raise ConfigError(f"{where} must be a text")
        return cls(value, special_tokens, where)

    def render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of `messages`, each with `role` and `content`, and what else the template
        knows: that of Phi-4-mini takes `tools`, a text, in the system's turn.

        add_generation_prompt: end with the header of the assistant's turn. InvalidRequest when
        there is no message, a role is unknown, or the template refuses them.
        """
        if not 1 <= len(messages) <= MAX_MESSAGES:
            raise InvalidRequest.of(
                "chat.messages", f"{len(messages)} messages, must be 1 to {MAX_MESSAGES}"
            )
        for i, message in enumerate(messages):
            if message["role"] not in ROLES:
                raise InvalidRequest.of(
                    f"chat.messages[{i}].role",
                    f"{message['role'][:32]!r}, must be {', '.join(ROLES)}",
                )
        num_characters = sum(len(value) for message in messages for value in message.values())
        variables = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            **self._special_tokens,
        }
        units = UNITS + UNITS_PER_MESSAGE * len(messages) + UNITS_PER_CHARACTER * num_characters
        try:
            return self._program.run(variables, units)
        except Exception as error:  # whatever a template may stumble over in these messages
            raise InvalidRequest.of(
                "chat.messages", f"the model's chat template refuses them: {_first_line(error)}"
            ) from None


def _read(file: Path) -> str:
    try:
        return read_file(file, MAX_TEMPLATE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
