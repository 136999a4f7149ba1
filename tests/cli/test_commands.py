"""The commands as a user runs them, on the embedded models."""

from __future__ import annotations

import json
import re
import signal

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


def test_classify_finds_entities_with_their_characters() -> None:
    text = "Maria Lopez flew to Oslo."
    done = phi3svc("classify", "--tokens", "--json", text)
    assert done.returncode == 0, done.stderr
    for entity in json.loads(done.stdout)["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]


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
