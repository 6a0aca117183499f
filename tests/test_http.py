"""The HTTP client against servers that fail in many ways."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from itertools import count

import pytest
from http_servers import Answer, Asked, answering, free_port

from agentopd.serving.connection import is_local
from agentopd.serving.http import HttpClient, ServerError, ServerSettings

LONG = 30.0
"""Seconds that only a failing test waits for."""


def client(url: str, **settings: float) -> HttpClient:
    return HttpClient(ServerSettings.model_validate({"url": url, "seconds": LONG, **settings}))


def in_turn(*answers: Answer) -> Answer:
    """A server that answers its first request in the first way, and so on; the last way for all
    others.
    """
    number = count()
    return lambda asked: answers[min(next(number), len(answers) - 1)](asked)


def well(asked: Asked) -> None:
    asked.say(b"well: " + asked.body)


def cut_before_the_answer(asked: Asked) -> None:
    asked.hang_up()


def cut_within_the_answer(asked: Asked) -> None:
    asked.send_response(200)
    asked.send_header("Content-Length", "1000")
    asked.end_headers()
    asked.wfile.write(b"well")
    asked.wfile.flush()
    asked.hang_up()


def garbled(asked: Asked) -> None:
    asked.wfile.write(b"\x00\x01 no protocol at all\r\n\r\n")
    asked.wfile.flush()
    asked.hang_up()


def failing(status: int) -> Answer:
    return lambda asked: asked.say({"error": {"message": "out of memory"}}, status)


FAULTS = {
    "cut before": cut_before_the_answer,
    "cut within": cut_within_the_answer,
    "garbled": garbled,
    **{str(status): failing(status) for status in (408, 429, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_is_outlived(fault: Answer) -> None:
    with answering(in_turn(fault, fault, well)) as url, client(url) as asking:
        assert asking.post("/x", b"you") == b"well: you"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_stays_is_told_in_one_line(fault: Answer) -> None:
    with (
        answering(fault) as url,
        client(url, patience=0.3) as asking,
        pytest.raises(ServerError) as told,
    ):
        asking.post("/x", b"you")
    assert str(told.value).startswith(f"{url}/x: ")
    assert "(2 tries)" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 301])
def test_what_will_not_change_is_asked_once(status: int) -> None:
    with answering(in_turn(failing(status), well)) as url, client(url) as asking:
        with pytest.raises(ServerError, match=rf"status {status}, 'out of memory'; "):
            asking.get("/x")
        assert asking.get("/x") == b"well: "


def test_a_server_that_is_gone_is_waited_for_no_longer_than_there_is_patience() -> None:
    with client(f"http://127.0.0.1:{free_port()}", patience=0.3) as asking:
        began = time.monotonic()
        with pytest.raises(ServerError, match="nothing listens there"):
            asking.get("/x")
    assert time.monotonic() - began < LONG


def test_a_server_that_comes_back_is_found() -> None:
    port, found = free_port(), []
    with client(f"http://127.0.0.1:{port}") as asking:
        thread = threading.Thread(target=lambda: found.append(asking.post("/x", b"you")))
        thread.start()
        with answering(well, port):
            thread.join(LONG)
    assert found == [b"well: you"]


def test_a_request_that_must_not_be_made_twice_is_not() -> None:
    with (
        answering(in_turn(failing(500), well)) as url,
        client(url) as asking,
        pytest.raises(ServerError, match="out of memory"),
    ):
        asking.post("/x", b"", patience=0)


@pytest.fixture
def parted() -> Iterator[threading.Event]:
    """Set at the test's end: servers that keep their clients waiting wait for it."""
    event = threading.Event()
    yield event
    event.set()


def test_silence_ends_with_the_time_limit(parted: threading.Event) -> None:
    with answering(lambda asked: parted.wait(LONG)) as url:
        told = pytest.raises(ServerError, match=r"no answer within 0\.2 seconds")
        with client(url, seconds=0.2, patience=0) as asking, told:
            asking.get("/x")
        parted.set()


def test_an_answer_that_never_ends_does(parted: threading.Event) -> None:
    """Each of its bytes comes in time."""

    def drip(asked: Asked) -> None:
        asked.send_response(200)
        asked.send_header("Content-Length", "1000000")
        asked.end_headers()
        while not parted.wait(0.02):
            asked.wfile.write(b"x")
            asked.wfile.flush()

    with answering(drip) as url, client(url, seconds=0.3, patience=0) as asking:
        with pytest.raises(ServerError, match="no answer within"):
            asking.get("/x")
        parted.set()


def test_no_more_than_parallel_are_under_way_and_answers_are_in_order() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def counted(asked: Asked) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        well(asked)

    with answering(counted) as url, client(url, parallel=3) as asking:
        answers = [*asking.post_each("/x", [b"%d" % number for number in range(20)])]
    assert answers == [b"well: %d" % number for number in range(20)]
    assert most[0] == 3


def test_json_goes_both_ways_and_garbage_is_told() -> None:
    with answering(lambda asked: asked.say(asked.body)) as url, client(url) as asking:
        assert asking.json("/x", asking.post("/x", {"ids": [1, 2]})) == {"ids": [1, 2]}
        with pytest.raises(ServerError, match=r"/x: the answer is no JSON \('<html>'\)"):
            asking.json("/x", asking.post("/x", b"<html>"))


def test_the_first_failure_calls_off_what_waits() -> None:
    asked_for = []

    def answer(asked: Asked) -> None:
        asked_for.append(asked.body)
        failing(400)(asked)

    with answering(answer) as url, client(url, parallel=1) as asking, pytest.raises(ServerError):
        list(asking.post_each("/x", [b"%d" % number for number in range(50)]))
    assert len(asked_for) < 50


def test_closing_ends_what_is_under_way(parted: threading.Event) -> None:
    reached = threading.Event()

    def silent(asked: Asked) -> None:
        reached.set()
        parted.wait(LONG)

    with answering(silent) as url:
        asking = client(url, parallel=1)
        under_way, waiting = asking.submit("/x", b"1"), asking.submit("/x", b"2")
        assert reached.wait(LONG)
        asking.close()
        with pytest.raises(ServerError, match="the client was closed"):
            under_way.result(LONG)
        with pytest.raises(CancelledError):
            waiting.result(LONG)
        with pytest.raises(ServerError, match="the client was closed"):
            asking.submit("/x", b"3")
        parted.set()


def test_nothing_is_left_when_nothing_is_asked() -> None:
    with answering(well) as url, client(url) as asking:
        before = set(threading.enumerate())
        list(asking.post_each("/x", [b""] * 8))
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
        assert not {t.name for t in threading.enumerate()} & {"http"}


INTERRUPTED = """
import sys
from agentopd.serving.http import HttpClient, ServerSettings
client = HttpClient(ServerSettings(url=sys.argv[1], seconds=300, parallel=2))
list(client.post_each("/x", [b""] * 5))
"""


def test_ctrl_c_does_not_hang(parted: threading.Event) -> None:
    reached = threading.Event()

    def silent(asked: Asked) -> None:
        reached.set()
        parted.wait(LONG)

    with answering(silent) as url:
        command = [sys.executable, "-c", INTERRUPTED, url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
            assert reached.wait(LONG)
            os.kill(waiting.pid, signal.SIGINT)
            said = waiting.communicate(timeout=LONG)[1]
        parted.set()
    assert said.strip().endswith("KeyboardInterrupt")


def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(well) as url, client(url, patience=0) as asking:
        assert asking.post("/x", b"you") == b"well: you"
    assert is_local("localhost") and is_local("::1") and not is_local("example.org")


def test_others_are_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(lambda asked: asked.say(asked.path.encode())) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        with client("http://models.example:8000/base", patience=0) as asking:
            assert asking.get("/x") == b"http://models.example:8000/base/x"


def test_the_key_is_sent_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServerSettings(url="http://127.0.0.1:1", key="MODELS_KEY")
    monkeypatch.delenv("MODELS_KEY", raising=False)
    with pytest.raises(ValueError, match="MODELS_KEY, which is not set"):
        HttpClient(settings)
    monkeypatch.setenv("MODELS_KEY", "hidden")
    with answering(lambda asked: asked.say(asked.headers["Authorization"].encode())) as url:
        there = settings.model_copy(update={"url": url})
        with HttpClient(there) as asking:
            assert asking.get("/x") == b"Bearer hidden"
    assert "hidden" not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://me:key@host"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        ServerSettings(url=url)
