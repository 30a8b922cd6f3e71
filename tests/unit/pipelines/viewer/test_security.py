"""What stands before every page: token, host, origin, headers."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from pipelines.viewer.security import Guard, cookie_name, new_token

_PORT = 8400
_TOKEN = "the-right-token"


def _said(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.url.path}")


@pytest.fixture
def client() -> TestClient:
    routes = [Route("/{path:path}", _said, methods=["GET", "POST"])]
    guarded = Guard(Starlette(routes=routes), _TOKEN, _PORT)
    return TestClient(guarded, base_url=f"http://127.0.0.1:{_PORT}", follow_redirects=False)


@pytest.fixture
def admitted(client: TestClient) -> TestClient:
    client.get(f"/?token={_TOKEN}")
    return client


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", f"?token={_TOKEN}x", "?token=ключ"])
def test_without_the_token_nothing_is_shown(client: TestClient, query: str) -> None:
    answer = client.get(f"/page{query}")
    assert answer.status_code == 403
    assert "needs the token in its address" in answer.text
    assert "/page" not in answer.text
    assert client.post(f"/page{query}", json={}).status_code == 403


def test_the_token_becomes_a_cookie_and_leaves_the_address(client: TestClient) -> None:
    answer = client.get(f"/page?token={_TOKEN}&a=b")
    assert (answer.status_code, answer.headers["location"]) == (303, "/page?a=b")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{cookie_name(_PORT)}={_TOKEN};")
    assert "HttpOnly" in cookie
    assert re.search("samesite=strict", cookie, re.IGNORECASE)
    assert client.get("/page").text == "GET /page"


def test_the_token_leads_to_no_other_host(client: TestClient) -> None:
    location = client.get(f"http://127.0.0.1:{_PORT}//evil.example?token={_TOKEN}").headers["location"]
    assert re.match(r"/[^/]", location)


def test_a_wrong_cookie_is_no_token(client: TestClient) -> None:
    client.cookies.set(cookie_name(_PORT), "wrong")
    assert client.get("/").status_code == 403


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{_PORT}", "127.0.0.1", "127.0.0.1:80", "0.0.0.0:8400"])
def test_another_name_of_this_machine_is_refused(admitted: TestClient, host: str) -> None:
    answer = admitted.get("/", headers={"host": host})
    assert (answer.status_code, answer.text) == (403, "403: unknown host\n")


def test_other_sites_can_not_post(admitted: TestClient) -> None:
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{_PORT}", "http://127.0.0.1:9"):
        assert admitted.post("/", json={}, headers={"origin": origin}).status_code == 403
    own = {"origin": f"http://127.0.0.1:{_PORT}"}
    assert admitted.post("/x", json={}, headers=own).text == "POST /x"


def test_bodies_are_bounded(admitted: TestClient) -> None:
    assert admitted.post("/", content=b"x" * (256 * 1024 + 1)).status_code == 413
    assert admitted.post("/", content=iter([b"x"])).status_code == 413  # of unknown length
    both = {"Content-Length": "1", "Transfer-Encoding": "chunked"}  # the length isn't what a server goes by then
    assert admitted.post("/", content=b"x", headers=both).status_code == 413


def test_a_path_that_takes_files_is_bounded_by_itself() -> None:
    routes = [Route("/{path:path}", _said, methods=["GET", "POST"])]
    guarded = Guard(Starlette(routes=routes), _TOKEN, _PORT, {"/pictures": 400 * 1024})
    client = TestClient(guarded, base_url=f"http://127.0.0.1:{_PORT}")
    assert client.post("/pictures", content=b"x").status_code == 403
    client.get(f"/?token={_TOKEN}")
    assert client.post("/pictures", content=b"x" * (400 * 1024)).status_code == 200
    assert client.post("/pictures", content=b"x" * (400 * 1024 + 1)).status_code == 413
    assert client.post("/pictures/", content=b"x" * (400 * 1024)).status_code == 413


def test_every_answer_tells_the_browser_to_load_nothing_else(admitted: TestClient, client: TestClient) -> None:
    for answer in (admitted.get("/"), client.get("/?token=wrong")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_tokens_differ() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43  # 256 bits
