"""Size, time, rate and names: what is refused before it costs anything, and how it is said."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mlis.errors import SettingsError
from mlis.serving import middleware as guard
from mlis.serving.settings import Access, Limits, is_loopback, read_token
from serve_cases import refusal


async def echo(request: Request) -> PlainTextResponse:
    body = await request.body()
    await asyncio.sleep(float(request.query_params.get("sleep", 0)))
    return PlainTextResponse(f"{len(body)} bytes")


def app(*middleware) -> Starlette:
    paths = ("/", "/health")
    made = Starlette(routes=[Route(path, echo, methods=["GET", "POST"]) for path in paths])
    for kind, options in middleware:
        made.add_middleware(kind, **options)
    return made


def ask(app: Starlette, *requests: dict, client=("10.0.0.1", 5000), base="http://localhost:8000"):
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url=base) as asker:
            given = [{"method": "POST", "url": "/", **request} for request in requests]
            return [await asker.request(**request) for request in given]

    return asyncio.run(run())


# --- rate -----------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_a_burst_and_then_its_rate():
    clock = Clock()
    buckets = guard.TokenBuckets(rate=2, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]
    assert buckets.take("b") == 0  # another client has its own
    clock.now = 0.4
    assert buckets.take("a") == pytest.approx(0.1)
    clock.now = 0.5
    assert buckets.take("a") == 0
    clock.now = 100
    assert [buckets.take("a") == 0 for _ in range(4)] == [True, True, True, False]


def test_a_client_that_asks_too_often_is_told_when_to_come_back():
    limited = app((guard.RateLimit, {"rate": 0.5}))
    answers = ask(limited, {}, {})
    assert answers[0].status_code == 200
    assert "at most 0.5 requests per second" in refusal(answers[1], 429)
    assert answers[1].headers["retry-after"] == "2"
    (other,) = ask(limited, {}, client=("10.0.0.2", 5000))
    assert other.status_code == 200
    free = [{"method": "GET", "url": "/health"}] * 4
    assert [answer.status_code for answer in ask(limited, *free)] == [200] * 4


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("testclient", 1), "testclient"),
        (None, ""),
    ],
)
def test_a_client_is_an_address_or_a_network(client, name):
    assert guard.client_of({"client": client}) == name


# --- size and time --------------------------------------------------------------------------------


def test_a_body_that_does_not_come_is_given_up():
    parts = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive():
        if parts:
            return parts.pop()
        return await asyncio.sleep(20)

    limited = app((guard.Deadline, {"deadlines": guard.Deadlines(0.2)}))
    assert asyncio.run(statuses(limited, receive)) == [408]


def test_a_body_that_comes_slowly_is_given_up_long_before_the_deadline(monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.1)

    async def receive():  # one byte every 20 ms, for ever
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    limited = app((guard.Deadline, {"deadlines": guard.Deadlines(3600)}))
    assert asyncio.run(statuses(limited, receive)) == [408]


def test_when_the_server_stops_requests_are_answered_soon(monkeypatch):
    monkeypatch.setattr(guard, "LAST_SECONDS", 0.05)
    deadlines = guard.Deadlines(3600)
    limited = app((guard.Deadline, {"deadlines": deadlines}))

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(limited)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as asker:
            asking = asyncio.create_task(asker.post("/", params={"sleep": 600}))
            while not deadlines.running:
                await asyncio.sleep(0.001)
            deadlines.stop()
            return await asking

    assert "the server is stopping" in refusal(asyncio.run(run()), 503)


async def statuses(app: Starlette, receive) -> list[int]:
    """Statuses of the answers to one request whose body comes from `receive`."""
    found: list[int] = []

    async def send(message):
        if message["type"] == "http.response.start":
            found.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return found


# --- names ----------------------------------------------------------------------------------------


def names(host: str, **more) -> tuple:
    """The middleware of a server that listens on an address."""
    access = Access.of(host, **more)
    options = {"hostnames": access.hostnames, "any_address": not is_loopback(host)}
    return guard.Names, options


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_the_server_answers_to_its_names(host):
    (answer,) = ask(app(names("127.0.0.1")), {"headers": {"host": host}})
    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "", "[::1"])
def test_a_name_that_someone_else_gave_it_is_refused(host):
    (answer,) = ask(app(names("127.0.0.1")), {"headers": {"host": host}})
    assert "expected 127.0.0.1, [::1], localhost" in refusal(answer, 400)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("http://evil.example", 403),
        ("http://localhost:9999", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_a_page_of_another_origin_may_not_make_its_visitor_ask(origin, status):
    guarded = app(names("127.0.0.1"))
    (answer,) = ask(guarded, {"headers": {"origin": origin}})
    assert answer.status_code == status
    (reading,) = ask(guarded, {"method": "GET", "headers": {"origin": origin}})
    assert reading.status_code == 200  # its answer stays unread: there is no CORS header
    assert "access-control-allow-origin" not in reading.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.0.2.7:8000", 200),  # no website can have an address as its name
        ("[2001:db8::7]:8000", 200),
        ("photos.example", 200),
        ("localhost:8000", 200),
        ("evil.example", 400),
        ("192.0.2.7.evil.example", 400),
        ("", 400),
    ],
)
def test_other_machines_may_use_an_address_or_a_name_that_was_given(host, status):
    guarded = app(names("0.0.0.0", hostnames=("photos.example",)))
    (answer,) = ask(guarded, {"headers": {"host": host}})
    assert answer.status_code == status


def test_a_forwarded_host_is_never_believed():
    guarded = app(names("127.0.0.1"))
    headers = {"x-forwarded-host": "localhost", "host": "evil.example"}
    (answer,) = ask(guarded, {"headers": headers})
    assert answer.status_code == 400
    headers = {"x-forwarded-host": "evil.example", "origin": "http://evil.example"}
    (answer,) = ask(guarded, {"headers": headers})
    assert answer.status_code == 403


# --- settings -------------------------------------------------------------------------------------


def test_changes_are_for_this_machine_unless_said_otherwise():
    assert Access.of("127.0.0.1").allow_changes
    assert Access.of("::1").allow_changes
    assert not Access.of("0.0.0.0").allow_changes
    assert not Access.of("127.0.0.1", proxy="127.0.0.1").allow_changes  # others come through it
    assert not Access.of("127.0.0.1", allow_changes=False).allow_changes
    assert "photos.example" in Access.of("127.0.0.1", hostnames=("photos.example",)).hostnames


@pytest.mark.parametrize("content", ["", "short", "two words of 16 letters", "ümläüt" * 4])
def test_a_token_that_cannot_be_sent_or_is_guessed_is_refused(content, tmp_path):
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"--token-file .*token"):
        read_token(file)
    file.write_text("0123456789abcdef\n")
    assert read_token(file) == "0123456789abcdef"
    with pytest.raises(SettingsError, match="absent"):
        read_token(tmp_path / "absent")


def limits_out_of_range() -> Iterator[tuple[str, float]]:
    yield from [("max_files", 0), ("max_rows", -1), ("max_megapixels", 500), ("timeout", 0)]
    yield from [("rate", -1), ("max_upload", float("nan")), ("max_batch", 1.5)]


@pytest.mark.parametrize(("name", "value"), list(limits_out_of_range()))
def test_a_limit_out_of_range_is_refused(name, value):
    with pytest.raises(SettingsError, match=f"limits.{name} must be"):
        Limits(**{name: value})
