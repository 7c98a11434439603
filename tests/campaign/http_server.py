"""A server on this machine that sends what a case wants, byte for byte."""

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

Send = Callable[[socket.socket, threading.Event], None]
Response = bytes | Send
"""The bytes of a response, or what writes it to the connection; the event is set when the case is over."""


def http(body: Any, status: int = 200, *headers: str, kind: str = "application/json") -> bytes:
    """Return a whole response; a body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(content)}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + content


def chat(content: Any = "<s>7</s>", usage: Any = None, logprobs: Any = None, **message: Any) -> dict[str, Any]:
    """Return a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "logprobs": logprobs}
    return {"choices": [choice], "usage": usage or {"prompt_tokens": 100, "completion_tokens": 5}}


class Server:
    """Answers the n-th request by ``answer(n, its JSON)``, one connection for each."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Response]) -> None:
        self.answer, self.over, self.asked = answer, threading.Event(), list[dict[str, Any]]()
        self.headers: list[str] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            file = connection.makefile("rb")
            headers = b"".join(itertools.takewhile(lambda line: line != b"\r\n", file)).decode()
            lengths = [line.split(":")[1] for line in headers.splitlines() if line.lower().startswith("content-l")]
            if not lengths:
                return  # the client has closed the connection without asking
            asked = json.loads(file.read(int(lengths[0])))
            with self._lock:
                number = len(self.asked)
                self.asked.append(asked)
                self.headers.append(headers)
            response = self.answer(number, asked)
            if isinstance(response, bytes):
                connection.sendall(response)
            else:
                response(connection, self.over)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)  # an open file would keep the connection open

    def close(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def reset(after: bytes) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    return send


def hang(after: bytes) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        over.wait(10)

    return send


def drip(after: bytes, what: bytes, every: float = 0.05) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        while not over.wait(every):
            connection.sendall(what)

    return send


def pour(after: bytes, what: bytes, most: int) -> Response:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(after)
        for _ in range(most // len(what)):
            connection.sendall(what)

    return send


@contextlib.contextmanager
def serving(answer: Callable[[int, dict[str, Any]], Response]) -> Iterator[Server]:
    """Run a server for the length of a block."""
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()
