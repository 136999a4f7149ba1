"""TokenizerService and ModelService, and the client's view of models."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from phi3svc.service.client_messages import RemoteModel
from phi3svc.v1 import model_service_pb2, tokenizer_service_pb2
from tests.service.conftest import Harness
from tests.service.fake_engine import CONTEXT_LEN, SENTIMENT_LABELS, VOCAB, ids_of


async def tokenize(harness: Harness, text: str, **options: bool) -> list[int]:
    request = tokenizer_service_pb2.TokenizeRequest(model="chat", text=text, **options)
    return list((await harness.tokenizer.Tokenize(request)).token_ids)


async def detokenize(harness: Harness, ids: list[int], **options: bool) -> str:
    request = tokenizer_service_pb2.DetokenizeRequest(model="chat", token_ids=ids, **options)
    return (await harness.tokenizer.Detokenize(request)).text


async def test_text_and_tokens_convert_both_ways(harness: Harness) -> None:
    assert await tokenize(harness, "hé\n") == ids_of("hé\n")
    assert await detokenize(harness, ids_of("hé\n")) == "hé\n"
    assert await tokenize(harness, "") == []
    assert await detokenize(harness, []) == ""


async def test_special_tokens_are_parsed_or_spelt_out(harness: Harness) -> None:
    assert await tokenize(harness, "a<|end|>") == [*ids_of("a"), VOCAB["<|end|>"]]
    assert await tokenize(harness, "a<|end|>", parse_special=False) == ids_of("a<|end|>")


async def test_special_tokens_are_skipped_or_written(harness: Harness) -> None:
    ids = [*ids_of("a"), VOCAB["<|end|>"]]
    assert await detokenize(harness, ids) == "a"
    assert await detokenize(harness, ids, skip_special=False) == "a<|end|>"


@pytest.mark.parametrize("add", [True, False])
async def test_a_chat_is_rendered_with_or_without_the_assistants_header(
    harness: Harness, add: bool
) -> None:
    request = tokenizer_service_pb2.RenderChatRequest(model="chat", add_generation_prompt=add)
    request.chat.messages.add(role="user", content="hi")
    rendered = await harness.tokenizer.RenderChat(request)
    assert rendered.prompt.startswith("<|user|>\nhi<|end|>\n")
    assert rendered.prompt.endswith("<|assistant|>\n") is add
    assert VOCAB["<|user|>"] in rendered.token_ids
    assert await tokenize(harness, rendered.prompt) == rendered.token_ids


async def test_models_are_described_in_order(harness: Harness) -> None:
    models = await harness.client.list_models()
    assert [model.name for model in models] == ["chat", "mood", "names"]
    config = harness.engine.models["mood"].config
    assert models[1] == RemoteModel(
        name="mood",
        tasks=frozenset({"sequence-classification"}),
        architecture="Phi3ForSequenceClassification",
        dtype="float32",
        max_context_len=CONTEXT_LEN,
        vocab_size=len(VOCAB),
        num_params=config.num_params,
        labels=SENTIMENT_LABELS,
        fingerprint="f" * 64,
    )
    assert models[0].labels == ()


async def test_one_model_by_name(harness: Harness) -> None:
    request = model_service_pb2.GetModelRequest(model="names")
    assert (await harness.models.GetModel(request)).model.name == "names"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await harness.models.GetModel(model_service_pb2.GetModelRequest(model="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
