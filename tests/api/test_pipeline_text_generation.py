"""The text-generation pipeline against transformers', and in what both ask of `generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from phi3svc import pipeline
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.pipelines.text_generation import TextGenerationPipeline
from phi3svc.api.pipelines.tokenizer import PipelineTokenizer
from phi3svc.config.checkpoint import EMBEDDED_DIR
from phi3svc.errors import InvalidRequest
from tests.api.pipelines import assert_same, ours_and_theirs
from tests.model.checkpoints import CHAT_TEMPLATE, make_tiny_causal

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 10}
TEXT = "Hello there"
LONG_TEXT = "A somewhat longer text than the original length of 32."
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
STARTED_CHAT = [*CHAT, {"role": "assistant", "content": "Sure, "}]
INPUTS = {
    "text": TEXT,
    "texts": [TEXT, LONG_TEXT],
    "nothing": "",
    "chat": CHAT,
    "started chat": STARTED_CHAT,
    "chats": [CHAT, STARTED_CHAT],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal(tmp_path_factory.mktemp("causal") / "chat")


@pytest.fixture(scope="module")
def pair(path: Path) -> tuple[TextGenerationPipeline, Any]:
    return ours_and_theirs("text-generation", path)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"return_full_text": False},
        {"return_full_text": True},
        {"return_tensors": True},
        {"return_text": True, "clean_up_tokenization_spaces": True, "padding": False},
        {"num_beams": 2, "num_return_sequences": 2},
        {"skip_special_tokens": False},
        {"prefix": "Pre", "add_special_tokens": True},
        {"truncation": True, "max_length": 20},
        {"tokenizer_encode_kwargs": {"truncation": True, "max_length": 6}},
    ],
    ids=str,
)
def test_answers_are_those_of_transformers(
    pair: tuple[Any, Any], kind: str, settings: dict[str, Any]
) -> None:
    ours, theirs = pair
    inputs, settings = INPUTS[kind], GREEDY | settings
    assert_same(ours(inputs, **settings), theirs(inputs, **settings))


@pytest.mark.parametrize("continues", [True, False])
def test_whether_to_continue_can_be_said(pair: tuple[Any, Any], continues: bool) -> None:
    ours, theirs = pair
    for chat in (CHAT, STARTED_CHAT):
        settings = {**GREEDY, "continue_final_message": continues}
        assert_same(ours(chat, **settings), theirs(chat, **settings))


@pytest.mark.parametrize("content", ["message['content']", "message['content'] | trim"])
@pytest.mark.parametrize("last", ["Sure, ", " Sure", "user", "trimmed away\n\n"])
def test_an_open_conversation_ends_where_its_last_message_does(
    path: Path, content: str, last: str
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", content)
    chat = [*CHAT, {"role": "assistant", "content": last}]
    found = PipelineTokenizer.of(tokenizer, "").apply_chat_template(
        chat, continue_final_message=True
    )
    assert found == tokenizer.apply_chat_template(chat, continue_final_message=True, tokenize=False)


def test_a_last_message_that_the_template_leaves_out_cannot_be_continued(path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(InvalidRequest, match="continue_final_message: the chat template does not"):
        PipelineTokenizer.of(tokenizer, "").apply_chat_template(
            STARTED_CHAT, continue_final_message=True
        )
    with pytest.raises(InvalidRequest, match="continue_final_message: True together with"):
        PipelineTokenizer.of(tokenizer, "").apply_chat_template(
            CHAT, continue_final_message=True, add_generation_prompt=True
        )


def test_answers_end_at_a_stop_sequence(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    text = ours(TEXT, **GREEDY, return_full_text=False)[0]["generated_text"]
    stop = next(character for character in text[2:] if character.isascii())
    for sequence in (stop, [stop, "no such text"]):
        expected = theirs(TEXT, **GREEDY, stop_sequence=sequence, return_full_text=False)
        assert len(expected[0]["generated_text"]) < len(text)
        found = ours(TEXT, **GREEDY, stop_sequence=sequence, return_full_text=False)
        assert_same(found, expected)


def test_scores_come_with_the_answers_if_asked_for(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    settings = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    (found,), (expected,) = ours(TEXT, **settings), theirs(TEXT, **settings)
    assert list(found) == list(expected) == ["generated_text", "logits"]
    torch.testing.assert_close(
        torch.tensor(found["logits"]), torch.tensor(expected["logits"]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("limit", [15, 40])
def test_a_hole_leaves_room_for_the_answer(tmp_path: Path, limit: int) -> None:
    path = make_tiny_causal(tmp_path)
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": limit}))
    ours, theirs = ours_and_theirs("text-generation", path, handle_long_generation="hole")
    settings = {**GREEDY, "return_tensors": True}
    found = ours(LONG_TEXT, **settings)
    assert_same(found, theirs(LONG_TEXT, **settings))
    assert len(found[0]["generated_token_ids"]) == limit
    # By the length of both the answer is 6 tokens, for which transformers takes its default of 256.
    settings = {"do_sample": False, "max_length": len(LONG_TEXT) + 6, "return_tensors": True}
    (record,) = ours(LONG_TEXT, **settings)
    assert record["generated_token_ids"][: limit - 6] == list(LONG_TEXT[6 - limit :].encode())
    with pytest.raises(InvalidRequest, match=f"max_length: 10 with a prompt of {len(LONG_TEXT)}"):
        ours(LONG_TEXT, do_sample=False, max_length=10)
    with pytest.raises(InvalidRequest, match=f"max_new_tokens: {limit}, must be below"):
        ours(LONG_TEXT, do_sample=False, max_new_tokens=limit)


def asked(pipe: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    """What a pipeline asks of its model for a text."""
    seen: dict[str, Any] = {}

    def generate(*inputs: Any, **options: Any) -> torch.Tensor:
        seen.update(options)
        return torch.tensor([[72, 105]])

    monkeypatch.setattr(pipe.model, "generate", generate)
    pipe("Hi", **settings)
    monkeypatch.undo()
    for name in ("input_ids", "attention_mask", "tokenizer"):
        seen.pop(name, None)
    return seen


@pytest.mark.parametrize(
    "checkpoint",
    [{}, {"do_sample": False}, {"max_new_tokens": 5}, {"max_length": 50, "temperature": 0.3}],
    ids=str,
)
@pytest.mark.parametrize(
    ("of_pipeline", "of_call"),
    [
        ({}, {}),
        ({}, {"do_sample": False}),
        ({}, {"max_length": 30}),
        ({}, {"prefix": "abc", "max_length": 30, "min_length": 3}),
        ({}, {"prefix": "abc", "max_length": 30, "max_new_tokens": 9}),
        ({"max_new_tokens": 7, "top_k": 3}, {"top_k": 4, "temperature": 0.5}),
        ({"do_sample": False, "stop_sequence": "."}, {"num_return_sequences": 1}),
    ],
    ids=str,
)
def test_defaults_give_way_as_in_transformers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: dict[str, Any],
    of_pipeline: dict[str, Any],
    of_call: dict[str, Any],
) -> None:
    path = make_tiny_causal(tmp_path)
    file = path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | checkpoint))
    pair = ours_and_theirs("text-generation", path, **of_pipeline)
    ours, theirs = (asked(pipe, monkeypatch, **of_call) for pipe in pair)
    assert ours == theirs


def test_a_generation_config_takes_the_place_of_the_pipelines(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ours_and_theirs("text-generation", path, max_new_tokens=7, return_full_text=False)
    config = transformers.GenerationConfig(do_sample=False, max_length=30)
    ours, theirs = (asked(pipe, monkeypatch, generation_config=config) for pipe in pair)
    effective = GenerationConfig.of(ours.pop("generation_config")).updated(**ours)
    # transformers hands on a copy of the config with the pipeline's defaults written into it.
    expected = GenerationConfig.of(theirs.pop("generation_config"))
    assert effective.to_dict() == expected.to_dict()
    assert not theirs
    assert pair[0]("Hi", generation_config=config) == pair[0](
        "Hi", do_sample=False, max_new_tokens=28
    )


def test_sampling_repeats_itself_from_torchs_seed(path: Path) -> None:
    pipe = pipeline("text-generation", str(path), max_new_tokens=8)
    torch.manual_seed(3)
    first = [pipe(TEXT), pipe([TEXT, LONG_TEXT], num_return_sequences=2)]
    torch.manual_seed(3)
    again = [pipe(TEXT), pipe([TEXT, LONG_TEXT], num_return_sequences=2, batch_size=2)]
    assert first == again
    (one, other), _ = first[1]
    assert one != other


@pytest.mark.parametrize("batch_size", [2, 16])
def test_batches_change_no_bit(pair: tuple[Any, Any], batch_size: int) -> None:
    ours, _ = pair
    texts = [TEXT, LONG_TEXT, "", "x", TEXT * 3]
    for settings in (GREEDY, {**GREEDY, "return_tensors": True, "eos_token_id": None}):
        alone = [ours(text, **settings) for text in texts]
        assert ours(texts, **settings, batch_size=batch_size) == alone


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (7, {}, "inputs: a int, must be a text, a conversation"),
        ([TEXT, 7], {}, "inputs: has a int, must be a text"),
        (
            [*CHAT, {"role": "user"}],
            {},
            r"inputs\[2\]: .* a message with a text as its content",
        ),
        ([{"role": "judge", "content": ""}], {}, "judge.*, must be system, user, assistant"),
        ([{"role": "assistant", "content": "a"}, CHAT], {}, r"inputs\[1\]"),
        (TEXT, {"tools": [{}]}, "tools: given"),
        (TEXT, {"max_new_token": 3}, "max_new_token"),
        (TEXT, {"handle_long_generation": "cut"}, "handle_long_generation: 'cut'"),
        (TEXT, {"prefix": 3}, "prefix: a int, must be a text"),
        (TEXT, {"tokenizer_encode_kwargs": {"stride": 1}}, "stride: no setting"),
        (TEXT, {"return_full_text": True, "return_tensors": True}, "return_full_text: given toget"),
        (TEXT, {"return_full_text": 1}, "return_full_text: 1, must be True or False"),
    ],
)
def test_what_cannot_be_done_is_named(
    pair: tuple[Any, Any], inputs: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pair[0](inputs, **settings)


def test_the_embedded_model_answers_as_in_transformers() -> None:
    ours, theirs = ours_and_theirs("text-generation", EMBEDDED_DIR / "demo", dtype=torch.float32)
    chat = [{"role": "user", "content": "What do you know about tomatoes?"}]
    expected = theirs(chat, do_sample=False)
    assert_same(ours(chat, do_sample=False), expected)
    assert pipeline("text-generation", dtype="float32")(chat, do_sample=False) == expected
