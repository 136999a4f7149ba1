"""`phi3svc bench` on an embedded model, in both modes, and its complaints."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from phi3svc import ops
from phi3svc.cli.main import build_parser
from phi3svc.errors import ConfigError
from tests.cli.command import COMMAND, ENV, phi3svc, serving

SMALL = ("--prompt-tokens", "12", "--max-new-tokens", "10", "--ignore-eos", "--warmup", "1")


def assert_counts(path: Path, num_requests: int) -> dict[str, object]:
    data = json.loads(path.read_text())
    results = data["results"]
    assert results["num_completed"] == results["num_requests"] == num_requests
    assert results["num_generated_tokens"] == num_requests * 10
    assert num_requests <= results["num_messages"] <= num_requests * 10
    assert [r["num_tokens"] for r in data["requests"]] == [10] * num_requests
    for request in data["requests"]:
        assert request["intended_s"] <= request["sent_s"] < request["end_s"]
        assert request["first_token_s"] <= request["end_s"] - request["intended_s"]
    assert results["errors"] == {}
    assert results["duration_s"] > 0
    return data


def test_engine_mode_finishes_every_request(tmp_path: Path) -> None:
    out = tmp_path / "engine.json"
    done = phi3svc(
        *("bench", "--mode", "engine", "--model", "demo", "--threads", "1", *SMALL),
        *("--concurrency", "3", "--requests", "9", "--json", str(out)),
    )
    assert done.returncode == 0, done.stderr
    data = assert_counts(out, 9)
    assert data["machine"]["isa"] in ops.available_isas()  # type: ignore[index]
    assert "closed loop, 3 at once" in done.stdout
    assert "time to first token" in done.stdout
    assert "\x1b" not in done.stdout


def test_grpc_mode_starts_a_server_and_draws(tmp_path: Path) -> None:
    out, picture = tmp_path / "grpc.json", tmp_path / "grpc.svg"
    done = phi3svc(
        *("bench", "--mode", "grpc", "--threads", "1", *SMALL, "--rate", "50", "--requests", "12"),
        *("--json", str(out), "--plot", str(picture)),
    )
    assert done.returncode == 0, done.stderr
    data = assert_counts(out, 12)
    assert data["address"] is None
    assert ET.fromstring(picture.read_text()).tag.endswith("svg")
    assert "sent late by" in done.stdout


def test_grpc_mode_asks_a_running_server(tmp_path: Path) -> None:
    out = tmp_path / "remote.json"
    with serving("--listen", "127.0.0.1:0", "--threads", "1") as (_, address):
        done = phi3svc(
            *("bench", "--address", address, *SMALL, "--requests", "5", "--json", str(out))
        )
        assert done.returncode == 0, done.stderr
        data = assert_counts(out, 5)
        assert data["address"] == address
        assert data["machine"]["isa"] is None  # type: ignore[index]
        assert data["model"]["name"] == "demo"  # type: ignore[index]
        wrong = phi3svc("bench", "--address", address, "--name", "nobody")
        assert wrong.returncode == 2
        assert "nobody" in wrong.stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--rate", "1", "--concurrency", "1"), "--concurrency"),
        (("--concurrency", "0"), "--concurrency 0"),
        (("--requests", "0"), "--requests 0"),
        (("--plot", "x.png"), "\\.svg"),
        (("--json", "/no/such/folder/x.json"), "/no/such/folder"),
        (("--mode", "engine", "--address", "localhost:1"), "--address"),
    ],
)
def test_bad_flag_is_named_before_anything_starts(args: tuple[str, ...], named: str) -> None:
    parsed = build_parser().parse_args(["bench", *args])
    with pytest.raises(ConfigError, match=named):
        parsed.run(parsed)


def test_error_of_the_private_server_is_one_line() -> None:
    done = phi3svc("bench", "--model", "/no/such/model")
    assert done.returncode == 2, done
    assert done.stderr.startswith("phi3svc: error: ")
    assert done.stderr.count("\n") == 1
    assert "/no/such/model" in done.stderr


def test_sigterm_stops_the_private_server_too() -> None:
    with subprocess.Popen(
        [*COMMAND, "bench", "--threads", "1", "--requests", "100000", "--concurrency", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("loading demo")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert rest == ""
    assert not Path(f"/proc/{children[0]}").exists()


def test_bench_of_an_unreachable_server_is_one_line() -> None:
    done = phi3svc("bench", "--address", "unix:/no/such.sock")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "unix:/no/such.sock" in done.stderr


def test_answers_that_do_not_fit_are_refused_before_the_run() -> None:
    args = ("--mode", "engine", "--threads", "1", "--max-new-tokens", "100000")
    done = phi3svc("bench", *args)
    assert done.returncode == 2
    assert "the context of model 'demo' holds" in done.stderr.splitlines()[-1]
