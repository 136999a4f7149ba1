"""From the input of a request to token ids, with the model's tokenizer and chat template."""

from __future__ import annotations

from phi3svc.errors import InvalidRequest
from phi3svc.service.catalog import ServedModel
from phi3svc.service.convert import Chat, GenerateCall


def render_chat(
    model: ServedModel, turns: Chat, *, add_generation_prompt: bool = True
) -> tuple[str, list[int]]:
    """The prompt as text and as tokens. Raises InvalidRequest for an order of turns it refuses."""
    messages = [{"role": role, "content": content} for role, content in turns]
    prompt = model.chat_template.render(messages, add_generation_prompt=add_generation_prompt)
    return prompt, model.tokenizer.encode(prompt, parse_special=True)


def tokenize_text(model: ServedModel, text: str, *, parse_special: bool = True) -> list[int]:
    """Token ids of a plain text, with what the tokenizer itself puts around one."""
    return model.tokenizer.encode(text, parse_special=parse_special, add_special=True)


def tokenize_prompt(call: GenerateCall) -> list[int]:
    """At least one token id. Raises InvalidRequest when there is none."""
    match call.prompt:
        case str():
            ids = tokenize_text(call.model, call.prompt)
        case tuple():
            _, ids = render_chat(call.model, call.prompt)
        case _:
            ids = call.prompt
    if not ids:
        raise InvalidRequest.of(call.input_field, "no tokens, must come to at least one")
    return ids
