"""A server on this machine that speaks the formats of embedding and language-model services, and misbehaves."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nearfield.remote import Clock

DIMENSION = 8
Misbehaviour = Callable[["Handler"], bool | None]  # True: and now the right answer, too


def vector(text: str, role: str = "") -> list[float]:
    """What the server answers for a text: any text has a vector of its own, of length 1."""
    digest = hashlib.sha256(f"{role}|{text}".encode("utf-8", "replace")).digest()
    values = np.frombuffer(digest[: 2 * DIMENSION], dtype=np.int16).astype(np.float32)
    return [float(value) for value in values / np.linalg.norm(values)]


class VirtualClock(Clock):
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.time, self.waits, self._lock = 0.0, [], threading.Lock()

    def now(self) -> float:
        return self.time

    def random(self) -> float:
        return 0.5

    def wait(self, seconds: float, stop: threading.Event) -> None:
        with self._lock:
            self.waits.append(seconds)
            self.time += seconds

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.body = json.loads(content)
        server = self.server
        with server.lock:
            server.requests.append((self.path, dict(self.headers.items()), self.body))
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            act = server.script.popleft() if server.script else server.always
        try:
            if act is None or act(self):
                self.give(*server.answer(self.path, self.body))
        except OSError:
            pass  # the client went away
        finally:
            with server.lock:
                server.in_flight -= 1

    def give(self, status: int, answer: Any, **headers: str) -> None:
        if isinstance(answer, Iterator):
            return self.stream(answer)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.send_header("connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        return None

    def stream(self, pieces: Iterator[str | None]) -> None:
        """Chunks as they come; None cuts the connection."""
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        self.end_headers()
        for piece in pieces:
            if piece is None:
                return
            data = piece.encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.script: deque[Misbehaviour | None] = deque()  # what is done with the next requests; None: the right thing
        self.always: Misbehaviour | None = None
        self.in_flight = self.most_in_flight = 0
        self.says: Callable[[Any], Iterator[str | None]] = lambda body: iter(["Hello."])
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    @property
    def texts(self) -> list[str]:
        """Every text that was asked for, in order, of all formats."""
        return [text for path, _, body in self.requests for text in texts_of(path, body)]

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        texts = texts_of(path, body)
        if path.endswith("/embeddings"):
            rows = [{"index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
            if body["encoding_format"] == "base64":
                for row in rows:
                    row["embedding"] = base64.b64encode(np.array(row["embedding"], dtype="<f4").tobytes()).decode()
            return 200, {"data": rows[::-1], "usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)}}
        if path.endswith(":batchEmbedContents"):
            tasks = [request.get("taskType", "") for request in body["requests"]]
            # Twice as long as they should be, as shortened vectors may come.
            rows = [[2 * x for x in vector(text, task)] for text, task in zip(texts, tasks, strict=True)]
            return 200, {"embeddings": [{"values": row} for row in rows]}
        if path.endswith("/v2/embed"):
            rows = [vector(text, body["input_type"]) for text in texts]
            return 200, {"embeddings": {"float": rows}, "meta": {"billed_units": {"input_tokens": len(texts)}}}
        if path.endswith("/api/embed"):
            return 200, {"embeddings": [vector(text) for text in texts], "prompt_eval_count": len(texts)}
        return chat(path, body, self.says(body))


def chat(path: str, body: Any, pieces: Iterator[str | None]) -> tuple[int, Any]:
    """The pieces as the stream of the service whose path this is."""
    if path.endswith("/chat/completions"):
        return 200, _openai(pieces)
    if path.endswith("/v1/messages"):
        return 200, _anthropic(pieces)
    if ":streamGenerateContent" in path:
        return 200, _google(pieces)
    if path.endswith("/api/chat"):
        return 200, _ollama(pieces)
    return 404, {"error": {"message": f"no such path: {path}"}}


def _openai(pieces: Iterator[str | None]) -> Iterator[str | None]:
    yield 'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    for piece in pieces:
        yield piece and f"data: {json.dumps({'choices': [{'delta': {'content': piece}, 'finish_reason': None}]})}\n\n"
    yield 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n: a comment\n\ndata: [DONE]\n\n'


def _anthropic(pieces: Iterator[str | None]) -> Iterator[str | None]:
    start = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    start |= {"usage": {"input_tokens": 1, "output_tokens": 1}}
    yield f"event: message_start\ndata: {json.dumps({'type': 'message_start', 'message': start})}\n\n"
    yield 'event: ping\ndata: {"type": "ping"}\n\n'
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield f"event: content_block_start\ndata: {json.dumps(block)}\n\n"
    for piece in pieces:
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        yield piece and f"event: content_block_delta\ndata: {json.dumps(delta)}\n\n"
    yield 'event: content_block_stop\ndata: {"type": "content_block_stop", "index": 0}\n\n'
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}
    yield f"event: message_delta\ndata: {json.dumps(end)}\n\n"
    yield 'event: message_stop\ndata: {"type": "message_stop"}\n\n'


def _google(pieces: Iterator[str | None]) -> Iterator[str | None]:
    for piece in pieces:
        yield piece and f"data: {json.dumps({'candidates': [{'content': {'parts': [{'text': piece}]}}]})}\r\n\r\n"
    yield 'data: {"candidates": [{"finishReason": "STOP"}]}\r\n\r\n'


def _ollama(pieces: Iterator[str | None]) -> Iterator[str | None]:
    for piece in pieces:
        yield piece and json.dumps({"message": {"role": "assistant", "content": piece}, "done": False}) + "\n"
    yield '{"message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop"}\n'


def texts_of(path: str, body: Any) -> list[str]:
    if ":batchEmbedContents" in path:
        return [request["content"]["parts"][0]["text"] for request in body["requests"]]
    return list(body.get("texts") or body.get("input") or [])


def fails(status: int, answer: Any = None, **headers: str) -> Misbehaviour:
    """An error with this status; the body is a dictionary, or bytes."""
    body = {"error": {"message": f"status {status} on purpose"}} if answer is None else answer
    return lambda handler: handler.give(status, body, **headers)


def cut(handler: Handler) -> None:
    """A long answer is promised, and half of it sent."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')


def slow(seconds: float) -> Misbehaviour:
    """Nothing for so long, then the right answer."""

    def act(handler: Handler) -> bool:
        time.sleep(seconds)
        return True

    return act


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
