"""Connections that never finish asking are closed; those that ask, wait or listen are not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from modules.frontends import serve
from modules.frontends.api import patience

SECONDS = 0.15


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers in two pieces, the second after three times what a head may take."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"o", "more_body": True})
    await asyncio.sleep(3 * SECONDS if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.body", "body": b"k"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    before, patience.HEAD_SECONDS = patience.HEAD_SECONDS, SECONDS
    bound = serve.open_port("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http=patience.Impatient, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join(10)
    bound.close()
    patience.HEAD_SECONDS = before


def ask(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What comes back until the server closes, or until 2 s pass."""
    with socket.create_connection(("127.0.0.1", port)) as found:
        found.settimeout(2)
        got = b""
        try:
            for piece in pieces:
                found.sendall(piece)
                time.sleep(pause)
            while piece := found.recv(4096):
                got += piece
        except TimeoutError:
            return got + b"[open]"
        except ConnectionError:
            pass
        return got


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HT"])
def test_a_connection_that_does_not_ask_is_closed(port, start):
    began = time.monotonic()
    assert ask(port, start) == b""
    assert SECONDS * 0.9 < time.monotonic() - began < 1.5


def test_a_head_that_trickles_in_is_cut_off(port):
    assert b"ok" not in ask(port, *[bytes([letter]) for letter in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], pause=0.02)


def test_a_slow_answer_and_a_second_question_are_waited_for(port):
    close = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert ask(port, b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\nok")
    assert ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", close, pause=2 * SECONDS).count(b"\r\n\r\nok") == 2
    assert ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HT").count(b"\r\n\r\nok") == 1
