"""The commands as a user runs them, on the embedded models."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

from tests.cli.command import phi3svc, serving


def test_serve_answers_several_commands_and_stops_on_sigterm() -> None:
    with serving("--listen", "127.0.0.1:0") as (process, address):
        first = phi3svc("generate", "Hello!", "--chat", "--address", address)
        again = phi3svc("generate", "Hello!", "--chat", "--address", address)
        assert first.returncode == 0, first.stderr
        assert first.stdout == again.stdout
        assert len(first.stdout.split()) > 2

        labels = phi3svc("classify", "I love it, simply wonderful.", "--json", "--address", address)
        scores = json.loads(labels.stdout)["labels"]
        assert max(scores, key=scores.get) == "positive"
        assert abs(sum(scores.values()) - 1) < 1e-3

        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_generate_is_repeatable_from_its_reported_seed() -> None:
    args = ("Tell me a story.", "--chat", "--json", "--temperature", "1", "--max-new-tokens", "24")
    with serving("--model", "demo", "--listen", "127.0.0.1:0") as (_, address):
        drawn = json.loads(phi3svc("generate", *args, "--address", address).stdout)
        seed = str(drawn["seed"])
        repeated = json.loads(
            phi3svc("generate", *args, "--seed", seed, "--address", address).stdout
        )
    assert repeated == drawn
    assert drawn["generated_token_count"] == len(drawn["token_ids"])


def test_generate_starts_its_own_server() -> None:
    done = phi3svc("generate", "-", "--chat", "--max-new-tokens", "8", stdin="Hello!")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_generate_in_int4_keeps_weights_only_where_they_are_large(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = phi3svc(
        *("generate", "Hello!", "--chat", "--max-new-tokens", "8", "--dtype", "int4"),
        *("--packed-cache", str(cache)),
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 2
    assert not cache.exists()


def test_classify_finds_entities_with_their_characters() -> None:
    text = "Maria Lopez flew to Oslo."
    done = phi3svc("classify", "--tokens", "--json", text)
    assert done.returncode == 0, done.stderr
    for entity in json.loads(done.stdout)["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]


def test_classify_leaves_tokens_alone_if_asked_to() -> None:
    done = phi3svc("classify", "--aggregation", "none", "--json", "Maria Lopez flew to Oslo.")
    assert done.returncode == 0, done.stderr
    labels = [entity["label"] for entity in json.loads(done.stdout)["entities"]]
    assert labels[:2] == ["B-PER", "I-PER"]


def test_chat_keeps_the_conversation() -> None:
    done = phi3svc("chat", stdin="Hello!\n\nThank you!\n")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.strip()]) == 2, done.stdout


def test_bad_sampling_flag_is_the_servers_sentence() -> None:
    with serving("--model", "demo", "--listen", "127.0.0.1:0") as (_, address):
        done = phi3svc("generate", "Hi", "--top-p", "7", "--address", address)
    assert done.returncode == 1
    assert re.fullmatch(r"phi3svc: .*sampling\.top_p.*\n", done.stderr), done.stderr


def test_info_describes_without_loading() -> None:
    done = phi3svc("info", "demo", "--json")
    facts = json.loads(done.stdout)
    assert facts["architecture"] == "Phi3ForCausalLM"
    assert facts["weights_in_float32"] == 4 * facts["parameters"]
    assert "longrope" in facts["rope"]
    # 4 layers, keys and values of 2 heads: 32 bytes and a scale each.
    assert facts["kv_bytes_per_token_in_bfloat16"] == 4 * 2 * 2 * 64
    assert facts["kv_bytes_per_token_in_int8"] == 4 * 2 * 2 * 36
    table = phi3svc("info", "demo").stdout
    assert f"{facts['parameters']:,}" in table


def test_demo_shows_chat_labels_and_entities() -> None:
    done = phi3svc("demo")
    assert done.returncode == 0, done.stderr
    for text in ("listening on 127.0.0.1:", "assistant", "positive", "server stopped"):
        assert text in done.stdout, done.stdout


def test_generate_shows_several_answers_and_probabilities() -> None:
    args = ("Tell me a story.", "--chat", "--temperature", "1", "--seed", "5")
    args += ("--max-new-tokens", "12")
    with serving("--model", "demo", "--listen", "127.0.0.1:0") as (_, address):
        args += ("--address", address)
        one = phi3svc("generate", *args).stdout
        shown = phi3svc("generate", *args, "--n", "3").stdout
        record = json.loads(phi3svc("generate", *args, "--n", "3", "--json").stdout)
        tables = phi3svc("generate", *args, "--top-logprobs", "2", "--prompt-logprobs").stdout
        single = ("--json", "--top-logprobs", "2", "--prompt-logprobs")
        facts = json.loads(phi3svc("generate", *args, *single).stdout)
    texts = [answer["text"] for answer in record["answers"]]
    assert len(set(texts)) == 3
    assert shown == "".join(f"[{i + 1}] {text}\n" for i, text in enumerate(texts))
    assert one == texts[0] + "\n"
    assert record["generated_token_count"] == sum(len(a["token_ids"]) for a in record["answers"])

    prompt, answer = facts["prompt"], facts
    assert len(prompt["logprobs"]) == len(prompt["top_logprobs"]) == len(prompt["token_ids"]) - 1
    assert len(answer["logprobs"]) == len(answer["top_logprobs"]) == len(answer["token_ids"]) == 12
    head, of_prompt, of_answer = tables.split("\n\n", 2)
    assert head == texts[0]
    assert of_prompt.splitlines()[0].strip() == "prompt"
    assert of_answer.splitlines()[0].strip() == "answer"
    for table, tokens, ids in (
        (of_prompt, prompt, prompt["token_ids"][1:]),
        (of_answer, answer, answer["token_ids"]),
    ):
        rows = [
            re.fullmatch(r"'.*' +(\d+) +(-\d+\.\d{4}) .*%.*%\s*", r) for r in table.splitlines()
        ]
        found = [(int(row[1]), float(row[2])) for row in rows if row]
        expected = [(i, round(p, 4)) for i, p in zip(ids, tokens["logprobs"], strict=True)]
        assert found == expected


def test_a_number_of_answers_out_of_range_is_one_sentence() -> None:
    with serving("--model", "demo", "--listen", "127.0.0.1:0") as (_, address):
        done = phi3svc("generate", "Hi", "--n", "65", "--address", address)
    assert done.returncode == 1
    assert done.stderr == "phi3svc: sampling.n: 65, must be 1 to 64\n"
    done = phi3svc("generate", "Hi", "--n", "-1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--n -1: must be 0 to 4294967295" in done.stderr
