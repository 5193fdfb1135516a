"""The API asked whatever its own OpenAPI document allows, and much that it does not: never a 500.

Schemathesis makes the requests. Its checks also hold every answer against the document: status,
media type and schema; and that what the document forbids is refused.
"""

import threading
import time

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from mlis.serving.app import create_app
from mlis.serving.settings import Access, Limits
from serve_cases import client, growing_engine, png

LIMITS = Limits(rate=0, max_wait=0, max_classes=40, timeout=60)
QUIET = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


OPERATIONS = [
    ("POST", "/predict/images"),
    ("POST", "/predict/features"),
    ("GET", "/tradeoff"),
    ("GET", "/classes"),
    ("POST", "/classes"),
    ("POST", "/classes/{name}/images"),
    ("POST", "/classes/{name}/features"),
    ("PATCH", "/classes/{name}"),
    ("DELETE", "/classes/{name}"),
    ("GET", "/health"),
    ("GET", "/tradeoff"),
    ("GET", "/metrics"),
]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def document():
    """The API's own document, from a server that answers until the last test."""
    access = Access.of("127.0.0.1", page=False)
    app = create_app(growing_engine(), LIMITS, access)
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    server.should_exit = True
    thread.join(timeout=30)


def ask(document, method: str, path: str, mode: GenerationMode, examples: int) -> None:
    """Send what the document allows, or what it does not, and hold the answers against it."""
    # a descriptor of zeros, or a name that is there, is well-formed and refused all the same
    excluded = [positive_data_acceptance] if path.startswith("/classes") else []

    @settings(max_examples=examples, **QUIET)
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def each(case):
        case.call_and_validate(excluded_checks=excluded)

    try:
        each()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing can be wrong in a request without input
        assert method in ("GET", "DELETE")


def test_every_operation_is_asked(document):
    found = {(o.ok().method.upper(), o.ok().path) for o in document.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_gives_a_500_and_every_answer_is_as_documented(document, method, path, mode):
    ask(document, method, path, mode, 15)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), [each for each in OPERATIONS if each[0] == "POST"])
def test_no_request_gives_a_500_at_length(document, method, path, mode):
    ask(document, method, path, mode, 300)


@pytest.fixture(scope="module")
def asker():
    with client(growing_engine(), {"max_classes": 40}) as asker:
        yield asker


@settings(max_examples=60, **QUIET)
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(
        [
            "application/json",
            "application/json; charset=utf-16",
            "multipart/form-data; boundary=x",
            "multipart/form-data; boundary=",
            "application/x-www-form-urlencoded",
            "text/plain",
            "",
        ]
    ),
    path=st.sampled_from(
        [
            "/predict/images",
            "/predict/features",
            "/classes",
            "/classes/red/images",
            "/classes/red/features",
        ]
    ),
    start=st.sampled_from(
        [
            b"",
            b'{"rows": [[',
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="',
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n',
        ]
    ),
)
def test_any_bytes_of_any_kind_are_answered(asker, body, kind, path, start):
    answer = asker.post(path, content=start + body, headers={"content-type": kind})
    assert answer.status_code in (200, 201, 400, 409, 413, 415, 422), answer.text
    assert answer.json()


@settings(max_examples=60, **QUIET)
@given(name=st.text(max_size=40), data=st.binary(max_size=60), cut=st.integers(0, 400))
def test_any_file_name_and_damaged_picture_are_answered(asker, name, data, cut):
    picture = png("red")
    damaged = picture[:cut] + data + picture[cut + len(data) :]
    answer = asker.post("/predict/images", files=[("files", (name, damaged))])
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        (result,) = answer.json()["results"]
        assert bool(result["predictions"]) != bool(result["error"])
