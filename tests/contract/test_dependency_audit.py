"""The audit of the pinned versions, by the real pip-audit against an advisory service on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import dependency_audit
from tests.dependency_audit import main, read_pins

WEAKNESS = {
    "id": "GHSA-xxxx",
    "aliases": ["CVE-2026-1"],
    "summary": "Runs what a file says.",
    "affected": [
        {
            "package": {"name": "weak-thing", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@dataclass
class Advisories:
    """A service that knows one weakness, and may break off."""

    url: str = ""
    refuses: frozenset[str] = frozenset()
    """Packages about which it breaks off."""
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Advisories]:
    service = Advisories()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.asked.append(query["package"]["name"])
            if query["package"]["name"] in service.refuses:
                self.send_error(503)
                return
            found = {"vulns": [WEAKNESS]} if query["package"]["name"] == "weak-thing" else {}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def service() -> Iterator[Advisories]:
    with serve() as advisories:
        yield advisories


def audit(url: str, tmp_path: Path, *pins: str) -> int:
    path = tmp_path / "pins.txt"
    path.write_text("# the set\n" + "".join(f"{pin}\n" for pin in pins))
    return main(["--pins", str(path), "--osv-url", url])


def test_a_known_weakness_fails_and_is_named(
    service: Advisories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(service.url, tmp_path, "Weak_Thing==1.0", "sound==2.0") == 1
    assert capsys.readouterr().out.splitlines() == [
        "weakness: weak-thing==1.0: CVE-2026-1, GHSA-xxxx: Runs what a file says. (fixed in 1.1)",
        "audited: 2 of 2 pinned versions",
    ]


def test_versions_without_a_known_weakness_pass(
    service: Advisories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(service.url, tmp_path, "sound==2.0") == 0
    assert capsys.readouterr().out == "audited: 1 of 1 pinned versions\n"
    assert service.asked == ["sound"]


def test_an_accepted_weakness_is_still_named(
    service: Advisories, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependency_audit, "ACCEPTED", {"CVE-2026-1": "we give it no files"})
    assert audit(service.url, tmp_path, "weak-thing==1.0") == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("accepted: weak-thing==1.0: CVE-2026-1, GHSA-xxxx")
    assert first.endswith("we give it no files")


def test_without_a_service_it_says_that_nothing_was_audited(
    closed_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(f"http://127.0.0.1:{closed_port}", tmp_path, "weak-thing==1.0") == 0
    assert capsys.readouterr().out.startswith("not audited: no advisory service reachable (")


def test_a_service_that_breaks_off_hides_no_finding(
    service: Advisories, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependency_audit, "_BLOCK", 2)
    service.refuses = frozenset({"c"})
    assert audit(service.url, tmp_path, "weak-thing==1.0", "a==1", "b==1", "c==1") == 1
    assert capsys.readouterr().out.splitlines() == [
        "weakness: weak-thing==1.0: CVE-2026-1, GHSA-xxxx: Runs what a file says. (fixed in 1.1)",
        "audited: 2 of 4 pinned versions",
        "not audited: b==1, c==1",
    ]


def test_our_pins_are_exact() -> None:
    pins = read_pins(Path(__file__).parents[2] / "constraints.txt")
    assert len(pins) > 100
    assert all(pin.count("==") == 1 for pin in pins)
