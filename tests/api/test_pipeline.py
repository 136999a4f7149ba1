"""`pipeline`: how it finds model, task and tokenizer; inputs one, many and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from phi3svc import (
    Phi3ForSequenceClassification,
    TextClassificationPipeline,
    TextGenerationPipeline,
    TokenClassificationPipeline,
    pipeline,
)
from phi3svc.errors import ConfigError, InvalidRequest, UnsupportedTask
from phi3svc.text.tokenizer import Tokenizer
from tests.model.checkpoints import make_tiny_causal, make_tiny_sequence, make_tiny_token

TEXTS = ["A text.", "Another.", "And one more."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    make_tiny_causal(folder / "text-generation")
    make_tiny_sequence(folder / "text-classification")
    make_tiny_token(folder / "token-classification")
    return folder


@pytest.fixture(scope="module")
def mood(folder: Path) -> TextClassificationPipeline:
    pipe = pipeline("text-classification", folder / "text-classification")
    assert isinstance(pipe, TextClassificationPipeline)
    return pipe


@pytest.mark.parametrize(
    ("task", "kind", "alias"),
    [
        ("text-generation", TextGenerationPipeline, None),
        ("text-classification", TextClassificationPipeline, "sentiment-analysis"),
        ("token-classification", TokenClassificationPipeline, "ner"),
    ],
)
def test_a_task_makes_its_pipeline(
    folder: Path, task: str, kind: type[Any], alias: str | None
) -> None:
    of_task = pipeline(task, str(folder / task), dtype="bfloat16", device="cpu")
    assert type(of_task) is kind
    assert (of_task.task, of_task.dtype, of_task.device) == (
        task,
        torch.bfloat16,
        torch.device("cpu"),
    )
    assert type(pipeline(model=folder / task)) is kind
    assert type(pipeline(model=folder / task, revision="main")) is kind  # of a hub id alone
    assert type(pipeline(model=of_task.model)) is kind
    if alias is not None:
        assert pipeline(alias, of_task.model).task == task


def test_a_loaded_model_is_used_as_it_is(folder: Path, mood: TextClassificationPipeline) -> None:
    model = Phi3ForSequenceClassification.from_pretrained(folder / "text-classification")
    pipe = pipeline("text-classification", model)
    assert pipe.model is model
    assert pipe(TEXTS) == mood(TEXTS)


def test_a_tokenizer_may_come_from_anywhere(folder: Path, mood: TextClassificationPipeline) -> None:
    path = folder / "text-classification"
    for tokenizer in (
        str(path),
        path,
        Tokenizer.from_dir(path),
        transformers.AutoTokenizer.from_pretrained(path),
        mood.tokenizer,
    ):
        assert pipeline("text-classification", path, tokenizer=tokenizer)(TEXTS) == mood(TEXTS)


def test_what_scripts_ask_of_a_pipelines_tokenizer(folder: Path) -> None:
    """As model cards write it: stop tokens by name, the pad token, and prompts made by hand."""
    path = folder / "text-generation"
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    pipe = pipeline("text-generation", path, do_sample=False, max_new_tokens=4)
    ours = pipe.tokenizer
    assert (ours.eos_token, ours.pad_token) == (theirs.eos_token, theirs.pad_token)
    for tokens in ("<|end|>", "a", ["<|end|>", "b"]):
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids("no token") is ours.unk_token_id
    chat = [{"role": "user", "content": "Hi"}]
    prompt = ours.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    with pytest.raises(InvalidRequest, match="tokenize: True, must be False"):
        ours.apply_chat_template(chat, tokenize=True)
    ours.pad_token = "<|user|>"
    assert ours.pad_token_id == theirs.convert_tokens_to_ids("<|user|>")
    texts = ["Hi", "Hello there"]
    (short,), _ = pipe(text_inputs=texts, return_tensors=True)
    settings = {"eos_token_id": short["generated_token_ids"][2], "return_tensors": True}
    (ended,), _ = pipe(texts, batch_size=2, **settings)
    assert ended["generated_token_ids"][3:] == [ours.pad_token_id] * 3
    ours.pad_token_id = ours.eos_token_id
    assert ours.pad_token == ours.eos_token
    with pytest.raises(InvalidRequest, match="pad_token: 'nope', must be a token"):
        ours.pad_token = "nope"


def test_a_tokenizer_of_transformers_brings_its_template_and_limits(folder: Path) -> None:
    path = folder / "text-generation"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "return_tensors": True}
    chat = [{"role": "user", "content": "Hi"}]
    own = pipeline("text-generation", path, **settings)
    given = pipeline("text-generation", path, tokenizer=tokenizer, **settings)
    assert given(chat) == own(chat)
    assert given("Hi") == own("Hi")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.model_max_length = 2
    changed = pipeline("text-generation", path, tokenizer=tokenizer, **settings)
    assert changed(chat) == own("Hi")
    assert changed("Hello", truncation=True) == own("He")
    tokenizer.chat_template = None
    with pytest.raises(InvalidRequest, match="tokenizer: has no chat template"):
        pipeline("text-generation", path, tokenizer=tokenizer)(chat)


class Dataset:
    """What a dataset is to a pipeline; not one by the iteration protocol."""

    __iter__ = None

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> str:
        return TEXTS[index]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_streams_are_answered_as_they_are_read(
    mood: TextClassificationPipeline, batch_size: int | None
) -> None:
    read = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    results = mood(texts(), batch_size=batch_size)
    assert read == []
    assert next(results) == mood(TEXTS)[0]
    assert read == TEXTS[: batch_size or 1]
    assert list(results) == mood(TEXTS)[1:]


def test_datasets_are_streamed_and_lists_are_not(mood: TextClassificationPipeline) -> None:
    results = mood(Dataset())
    assert not isinstance(results, list)
    assert list(results) == mood(TEXTS) == mood(tuple(TEXTS))
    assert mood([]) == []


def test_a_generator_of_chats_is_streamed(folder: Path) -> None:
    pipe = pipeline(
        "text-generation", folder / "text-generation", do_sample=False, max_new_tokens=3
    )
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    assert list(pipe(chat for chat in chats)) == pipe(chats) == [pipe(chat) for chat in chats]


def test_the_batch_size_may_be_the_pipelines(folder: Path) -> None:
    pipe = pipeline("ner", folder / "token-classification", batch_size=3, num_workers=2)
    results = pipe(iter(TEXTS))
    assert list(results) == pipe(TEXTS, batch_size=1)


def test_a_random_model_has_no_tokenizer(folder: Path) -> None:
    model = Phi3ForSequenceClassification.from_pretrained(folder / "text-classification")
    model.name_or_path = ""
    with pytest.raises(ConfigError, match="tokenizer: none given"):
        pipeline("text-classification", model)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InvalidRequest, "task: None together with model=None"),
        ({"task": "fill-mask"}, InvalidRequest, "task: 'fill-mask', must be one of text-generat"),
        ({"task": "ner", "config": {}}, InvalidRequest, "config: given"),
        ({"task": "ner", "device": 0}, ConfigError, "device='cuda:0': .*CUDA"),
        ({"task": "ner", "device": "cuda:0"}, ConfigError, "device='cuda:0': .*CUDA"),
        ({"task": "ner", "model": "no/such/folder"}, ConfigError, "no/such/folder"),
        ({"task": "text-generation", "temperatur": 1}, InvalidRequest, "temperatur"),
        ({"task": "text-generation", "top_p": 7}, InvalidRequest, "top_p: 7"),
        ({"task": "ner", "model": "org/name", "token": "x"}, ConfigError, "HF_TOKEN"),
        ({"task": "ner", "stide": 3}, InvalidRequest, "stide: no setting of this pipeline"),
        ({"task": "ner", "tokenizer": object()}, InvalidRequest, "tokenizer: a object, must be"),
        ({"task": "ner", "batch_size": 1.5}, InvalidRequest, "batch_size: 1.5, must be a whole"),
    ],
)
def test_what_makes_no_pipeline_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline(**arguments)


def test_a_model_must_have_the_tasks_head(folder: Path, mood: TextClassificationPipeline) -> None:
    with pytest.raises(UnsupportedTask, match="Phi3ForSequenceClassification cannot do token-cl"):
        pipeline("ner", mood.model)
    with pytest.raises(UnsupportedTask, match="a Linear cannot do text-classification"):
        pipeline("text-classification", torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="has no token-classification head"):
        pipeline("ner", folder / "text-classification")
