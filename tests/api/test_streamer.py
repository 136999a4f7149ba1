"""Streamers of transformers, fed by generate()."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.errors import InvalidRequest
from tests.api.generating import oracle_model, prompt
from tests.model.conftest import MakeCheckpoint


@pytest.fixture(scope="module")
def path(checkpoint: MakeCheckpoint) -> Path:
    return checkpoint()


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


ROW = torch.tensor([prompt(9)])


class Recorder:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def put(self, value: Tensor) -> None:
        self.told.append((tuple(value.shape), value.flatten().tolist()))

    def end(self) -> None:
        self.told.append("end")


def test_it_is_told_what_transformers_tells(model: Phi3ForCausalLM, path: Path) -> None:
    ours, theirs = Recorder(), Recorder()
    model.generate(ROW, max_new_tokens=6, streamer=ours)
    oracle_model(path).generate(ROW, max_new_tokens=6, streamer=theirs)
    assert ours.told == theirs.told
    assert ours.told[-1] == "end"


def test_a_stopped_row_streams_no_further(model: Phi3ForCausalLM) -> None:
    """Though guessed tokens may already be there: of a text that repeats itself."""
    streamer = Recorder()
    sequences = model.generate(
        ROW,
        max_new_tokens=60,
        streamer=streamer,
        logit_bias={7: 100.0},
        stopping_criteria=[lambda ids, scores: ids.shape[1] == 9 + 37],
    )
    assert [ids for _, ids in streamer.told[1:-1]] == [[7]] * 37
    assert sequences.shape == (1, 9 + 37)


@pytest.mark.parametrize("skip_prompt", [True, False])
def test_text_streamer(
    model: Phi3ForCausalLM, tokenizer: Any, capsys: pytest.CaptureFixture[str], skip_prompt: bool
) -> None:
    streamer = transformers.TextStreamer(tokenizer, skip_prompt=skip_prompt)
    sequences = model.generate(ROW, max_new_tokens=20, streamer=streamer)
    shown = sequences[0, 9:] if skip_prompt else sequences[0]
    assert capsys.readouterr().out == tokenizer.decode(shown) + "\n"


def test_iterator_streamer_in_another_thread(model: Phi3ForCausalLM, tokenizer: Any) -> None:
    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    arguments = {"input_ids": ROW, "max_new_tokens": 20, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs=arguments)
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == tokenizer.decode(model.generate(ROW, max_new_tokens=20)[0, 9:])


SCORES = {"return_dict_in_generate": True, "output_scores": True}


@pytest.mark.parametrize("settings", [{}, SCORES, SCORES | {"num_beams": 3}], ids=str)
def test_threads_take_turns(model: Phi3ForCausalLM, settings: dict[str, Any]) -> None:
    settings = settings | {"max_new_tokens": 40}
    rows = [torch.tensor([prompt(9, seed)]) for seed in range(6)]
    expected = [model.generate(row, **settings) for row in rows]
    found: dict[int, Any] = {}

    def generate(i: int) -> None:
        found[i] = model.generate(rows[i], **settings)

    threads = [threading.Thread(target=generate, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, output in enumerate(expected):
        if not settings.get("output_scores"):
            assert torch.equal(found[i], output)
            continue
        assert torch.equal(found[i].sequences, output.sequences)
        assert all(map(torch.equal, found[i].scores, output.scores))


@pytest.mark.parametrize(
    "settings",
    [
        {"inputs": ROW.expand(2, -1)},
        {"inputs": ROW, "do_sample": True, "num_return_sequences": 2},
        {"inputs": ROW, "num_beams": 2},
    ],
    ids=["rows", "answers", "beams"],
)
def test_one_row_at_a_time(model: Phi3ForCausalLM, settings: dict[str, Any]) -> None:
    streamer = Recorder()
    with pytest.raises(InvalidRequest, match=r"^streamer: given with"):
        model.generate(streamer=streamer, **settings)
    assert streamer.told == []
