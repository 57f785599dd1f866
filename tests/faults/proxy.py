"""A faulty network: an HTTP proxy between a client and an S3 server that follows rules.

Clients sign the Host header, so it is passed on as they sent it. Bodies are held in memory whole;
each request has its own connection to the server.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

Mode = Literal[
    "lose",  # the server does it, the client is cut off before the answer
    "delay",  # the server gets it `value` seconds later, whether the client still waits or not
    "latency",  # `value` seconds, more or less, before the server gets it
    "cut_up",  # the connection is reset after `value` bytes of the request's body
    "cut_down",  # the connection is reset after `value` bytes of the answer's body
    "blackhole",  # nothing comes back, for as long as the client waits
    "status",  # the proxy answers with status `value` and error `code`; the server sees nothing
    "strip",  # the server gets it without the header `header`
]


@dataclass
class Rule:
    """What happens to which requests.

    Attributes:
        mode: see `Mode`.
        method: regular expression that the whole method must match.
        key: regular expression, searched in the path (decoded, query behind "?").
        at: the first match that is hurt, from 1.
        times: how many are hurt; None for all from then on.
        share: of the matches, chosen at random; None for all.
        value: see `Mode`.
        code: error code of a "status" answer.
        header: see `Mode`.
        seen: requests that matched so far.
        fired: requests that were hurt so far.
    """

    mode: Mode
    method: str = ".*"
    key: str = ""
    at: int = 1
    times: int | None = 1
    share: float | None = None
    value: float = 0
    code: str = ""
    header: str = ""
    seen: int = 0
    fired: int = 0

    def applies(self, request: "Request", draw: random.Random) -> bool:
        """Count the request; say whether it is to be hurt."""
        if not (re.fullmatch(self.method, request.method) and re.search(self.key, request.path)):
            return False
        self.seen += 1
        if self.seen < self.at or (self.times is not None and self.fired >= self.times):
            return False
        if self.share is not None and draw.random() >= self.share:
            return False
        self.fired += 1
        return True


@dataclass
class Request:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(self.target)

    def without(self, *names: str) -> "Request":
        lower = {name.lower() for name in names}
        kept = [(name, value) for name, value in self.headers if name.lower() not in lower]
        return Request(self.method, self.target, kept, self.body)

    def signed(self, keys: Credentials) -> "Request":
        """The same request with a signature over the headers that it has now."""
        headers = dict(self.without("authorization").headers)
        known = {name.lower(): value for name, value in headers.items()}
        url = f"http://{known['host']}{self.target}"
        unsigned = AWSRequest(self.method, url, headers, data=self.body)
        S3SigV4Auth(keys, "s3", "us-east-1").add_auth(unsigned)
        return Request(self.method, self.target, list(unsigned.headers.items()), self.body)

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{n}: {v}" for n, v in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Proxy:
    """Runs in a thread until it is closed; rules may be added and dropped at any time.

    Attributes:
        endpoint: for the clients.
        rules: the first that applies to a request decides.
        answered: (method, path, status) of the requests that got to the server, in order.
    """

    def __init__(self, server: str, keys: Credentials, seed: int = 0) -> None:
        parts = urlsplit(server)
        assert parts.hostname
        assert parts.port
        self._server = (parts.hostname, parts.port)
        self._keys = keys
        self._mistakes: list[Exception] = []
        self._draw = random.Random(seed)
        self.rules: list[Rule] = []
        self.answered: list[tuple[str, str, int]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.endpoint = f"http://127.0.0.1:{listening}"
        self._hurt: dict[Mode, Callable[[Rule, Request, Client], Awaitable[None]]] = {
            "lose": self._lose,
            "delay": self._delay,
            "latency": self._latency,
            "cut_up": self._cut_up,
            "cut_down": self._cut_down,
            "blackhole": self._blackhole,
            "status": self._status,
            "strip": self._strip,
        }

    def add(self, mode: Mode, **settings: object) -> Rule:
        """Hurt some of the requests from now on."""
        rule = Rule(mode, **settings)  # type: ignore[arg-type]
        self.rules.append(rule)
        return rule

    def close(self) -> None:
        """End all connections and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert self._mistakes == []

    async def _listen(self) -> int:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def _end(self) -> None:
        self._listener.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(reader, writer)
        try:
            while not writer.is_closing() and (request := await client.read()):
                rule = next((r for r in self.rules if r.applies(request, self._draw)), None)
                if rule is None:
                    await client.answer(await self._forward(request))
                else:
                    await self._hurt[rule.mode](rule, request, client)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client gave up, as clients do
        except asyncio.CancelledError:
            pass  # the proxy is closed; a cancelled handler would be reported as an error
        except Exception as error:  # noqa: BLE001  (a mistake in here must fail the test)
            self._mistakes.append(error)
        finally:
            writer.close()

    async def _forward(self, request: Request) -> bytes:
        """Send a request to the server; the whole answer."""
        reader, writer = await asyncio.open_connection(*self._server)
        try:
            once = request.without("connection", "expect")
            once.headers.append(("Connection", "close"))
            writer.write(once.encode())
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        self.answered.append((request.method, request.path, int(answer.split(b" ", 2)[1] or 0)))
        return answer

    async def _lose(self, rule: Rule, request: Request, client: "Client") -> None:
        await self._forward(request)
        client.reset()

    async def _delay(self, rule: Rule, request: Request, client: "Client") -> None:
        await asyncio.sleep(rule.value)
        await client.answer(await self._forward(request))

    async def _latency(self, rule: Rule, request: Request, client: "Client") -> None:
        await asyncio.sleep(self._draw.uniform(0, 2 * rule.value))
        await client.answer(await self._forward(request))

    async def _cut_up(self, rule: Rule, request: Request, client: "Client") -> None:
        _, writer = await asyncio.open_connection(*self._server)
        whole = request.encode()
        writer.write(whole[: len(whole) - len(request.body) + int(rule.value)])
        await writer.drain()
        reset(writer)
        client.reset()

    async def _cut_down(self, rule: Rule, request: Request, client: "Client") -> None:
        answer = await self._forward(request)
        head, gap, body = answer.partition(b"\r\n\r\n")
        client.writer.write(head + gap + body[: int(rule.value)])
        await client.writer.drain()
        client.reset()

    async def _blackhole(self, rule: Rule, request: Request, client: "Client") -> None:
        await client.reader.read()
        client.reset()

    async def _status(self, rule: Rule, request: Request, client: "Client") -> None:
        body = b""
        if request.method != "HEAD":
            said = f"<Code>{rule.code}</Code><Message>injected: {rule.code}</Message>"
            body = f"<Error>{said}</Error>".encode()
        head = f"HTTP/1.1 {int(rule.value)} {rule.code}\r\nContent-Type: application/xml\r\n"
        await client.answer(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def _strip(self, rule: Rule, request: Request, client: "Client") -> None:
        # Conditions are signed: a request without one needs a signature of its own.
        await client.answer(await self._forward(request.without(rule.header).signed(self._keys)))


class Client:
    """The client's side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> Request | None:
        """The next request; None when the client is through."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]
        known = {name.lower(): value for name, value in headers}
        if known.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in known.get("transfer-encoding", "").lower():
            body = await self._read_chunks()
        else:
            body = await self.reader.readexactly(int(known.get("content-length", 0)))
        return Request(method, target, headers, body)

    async def _read_chunks(self) -> bytes:
        """The chunks as they came: they are passed on with their frames."""
        parts = []
        while True:
            size = await self.reader.readline()
            n_bytes = int(size.split(b";")[0], 16)
            chunk = await self.reader.readexactly(n_bytes + 2) if n_bytes else b""
            parts += [size, chunk]
            if not n_bytes:
                break
        while (line := await self.reader.readline()) != b"\r\n":
            parts.append(line)
        return b"".join([*parts, b"\r\n"])

    async def answer(self, answer: bytes) -> None:
        """Pass an answer on; the connection stays open where its end can be told."""
        head, gap, body = answer.partition(b"\r\n\r\n")
        lines = [x for x in head.split(b"\r\n") if not x.lower().startswith(b"connection:")]
        self.writer.write(b"\r\n".join(lines) + gap + body)
        await self.writer.drain()
        names = {line.split(b":")[0].lower() for line in lines[1:]}
        if not names & {b"content-length", b"transfer-encoding"}:
            self.writer.close()

    def reset(self) -> None:
        """Cut the client off."""
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST, not by an orderly end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
