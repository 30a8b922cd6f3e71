"""Each failure of an object store is one error: the URL, what the server said, a remedy, and no secret."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from obstore import exceptions

from storage import object_clients
from storage.errors import InfrastructureError, ObjectNotFound
from storage.object_clients import finding_out_early
from storage.objects import Objects
from storage.store_failures import is_out_of_reach, is_trouble, is_unclear, our_error
from tests.faulty_proxy import Faults, FaultyProxy, Refusal

SECRET = "a-secret-of-the-tests"
URL = "s3://bucket/some/prefix"


@pytest.fixture(autouse=True)
def environment(s3_variables: Callable[..., None]) -> None:
    """One of fixed credentials, and nothing else of S3's."""
    s3_variables(AWS_ACCESS_KEY_ID="a-key-of-the-tests", AWS_SECRET_ACCESS_KEY=SECRET)


@pytest.fixture
def refusing(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A server that answers every request by the same refusal."""
    with FaultyProxy(f"http://127.0.0.1:{closed_port}", Faults(refused_share=1.0)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def told(action: Callable[[Objects], object]) -> str:
    """The error of an action below the URL."""
    with pytest.raises(InfrastructureError, match="s3://bucket") as caught:
        action(Objects.open(URL))
    assert not isinstance(caught.value, ObjectNotFound)
    assert caught.value.__suppress_context__
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ACTIONS: dict[str, Callable[[Objects], object]] = {
    "read": lambda objects: objects.read("a"),
    "look up": lambda objects: objects.size("a"),
    "create": lambda objects: objects.create("a", b"1"),
    "write": lambda objects: objects.put("a", b"1"),
    "delete": lambda objects: objects.delete("a"),
    "list": lambda objects: list(objects.list()),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        (Refusal(403, "SignatureDoesNotMatch", "m"), "check AWS_SECRET_ACCESS_KEY"),
        (Refusal(403, "InvalidAccessKeyId", "m"), "check AWS_ACCESS_KEY_ID"),
        (Refusal(403, "RequestTimeTooSkewed", "m"), r"set the clock \(NTP\)"),
        (Refusal(403, "AccessDenied", "m"), "grant reading, writing, deleting and listing below the URL"),
        (Refusal(400, "ExpiredToken", "m"), "set new ones, AWS_SESSION_TOKEN with them"),
        (Refusal(400, "AuthorizationHeaderMalformed", "m"), "set AWS_REGION"),
        (Refusal(403, "SomethingNew", "m"), "access refused; check AWS_ACCESS_KEY_ID"),
        (Refusal(400, "SomethingElse", "m"), "the store failed; if it persists check AWS_"),
    ],
    ids=lambda value: value.code if isinstance(value, Refusal) else "",
)
def test_a_refusal_is_told_at_once(refusing: FaultyProxy, refusal: Refusal, remedy: str, action: str) -> None:
    refusing.faults = Faults(refused_share=1.0, refusal=refusal)
    with pytest.raises(InfrastructureError, match=remedy) as caught:
        ACTIONS[action](Objects.open(URL))
    assert str(caught.value).startswith(f"{action} s3://bucket/some/prefix/")
    assert str(caught.value).endswith(f"(the server says {refusal.code}: m)")
    # Answers to HEAD have no body: why is asked for by GET.
    assert [request.method for request in refusing.requests][1:] == (["GET"] if action == "look up" else [])


@pytest.mark.parametrize("action", sorted(ACTIONS.keys() - {"look up"}))
def test_an_absent_bucket(refusing: FaultyProxy, action: str) -> None:
    refusing.faults = Faults(refused_share=1.0, refusal=Refusal(404, "NoSuchBucket", "It isn't there."))
    assert told(ACTIONS[action]).endswith(
        "the bucket doesn't exist; create it or correct the URL (the server says NoSuchBucket: It isn't there.)"
    )


def test_secrets_that_a_server_repeats_are_taken_out(refusing: FaultyProxy) -> None:
    refusing.faults = Faults(refused_share=1.0, refusal=Refusal(403, "InvalidAccessKeyId", f"no {SECRET} here"))
    assert told(ACTIONS["read"]).endswith("InvalidAccessKeyId: no <AWS_SECRET_ACCESS_KEY> here)")


def test_an_absent_object_is_none_of_these(refusing: FaultyProxy) -> None:
    refusing.faults = Faults(refused_share=1.0, refusal=Refusal(404, "NoSuchKey", "m"))
    for action in ("read", "look up"):
        with pytest.raises(ObjectNotFound, match=f"{action} {URL}/a: no such object; run the stage that writes it"):
            ACTIONS[action](Objects.open(URL))


def test_half_of_the_credentials(s3_variables: Callable[..., None], closed_port: int) -> None:
    s3_variables(AWS_ACCESS_KEY_ID="a-key-of-the-tests", AWS_ENDPOINT_URL=f"http://127.0.0.1:{closed_port}")
    assert "credentials are incomplete; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in told(ACTIONS["read"])


def test_neither_credentials_nor_a_role(s3_variables: Callable[..., None], closed_port: int) -> None:
    s3_variables(AWS_METADATA_ENDPOINT=f"http://127.0.0.1:{closed_port}")
    with finding_out_early():
        assert "no credentials found, and this machine has no role that gives any; set AWS_" in told(ACTIONS["read"])


def early(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command tells of an endpoint, within seconds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    begin_s = time.monotonic()
    with finding_out_early():
        text = told(ACTIONS["read"])
    assert time.monotonic() - begin_s < 20
    return text


def test_nobody_at_an_address(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{closed_port}"
    text = early(endpoint, monkeypatch)
    assert f"endpoint {endpoint} unreachable, the connection is refused; check AWS_ENDPOINT_URL and the network" in text


def test_no_address_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    text = early("http://no-such-host.invalid:8333", monkeypatch)
    assert "endpoint http://no-such-host.invalid:8333 unreachable, its name has no address" in text


def test_a_command_asks_once_before_it_begins(refusing: FaultyProxy) -> None:
    with finding_out_early():
        told(ACTIONS["read"])  # whatever the greeting is answered, somebody is there
        told(ACTIONS["read"])
        told(ACTIONS["create"])
    assert [request.method for request in refusing.requests] == ["HEAD", "GET", "GET", "PUT"]


def test_nobody_else_does(refusing: FaultyProxy) -> None:
    told(ACTIONS["read"])
    assert [request.method for request in refusing.requests] == ["GET"]


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts servers whose certificate is for a name and valid until a moment; gives their address."""
    servers: list[ThreadingHTTPServer] = []

    def start(name: str, until: datetime) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(tmp_path, name, until))
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Silent)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda request, client_address: None  # clients that go away are what is tested
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"https://localhost:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _certificate(folder: Path, name: str, until: datetime) -> Path:
    """A certificate that has signed itself, with its key; it is its own authority, in `authority.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=30))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "authority.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + pem)
    return folder / "server.pem"


def test_certificates(tls_server: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later, earlier = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) - timedelta(days=1)
    unknown = early(tls_server("localhost", later), monkeypatch)
    assert "by an authority that this machine doesn't know; name the authority's file in SSL_CERT_FILE" in unknown
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    other = tls_server("s3.example", later)
    text = early(other, monkeypatch)
    assert f"endpoint {other}: its certificate isn't for this name but for s3.example; correct AWS_ENDPOINT_URL" in text
    assert "its certificate isn't valid (Expired" in early(tls_server("localhost", earlier), monkeypatch)


def test_a_server_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = early(f"https://127.0.0.1:{server.server_port}", monkeypatch)
        server.shutdown()
    assert "speaks no TLS; correct AWS_ENDPOINT_URL, perhaps to http://" in text


def test_somebody_who_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_clients, "_TIMEOUTS_EARLY", {"timeout": timedelta(seconds=0.3)})
    monkeypatch.setattr(object_clients, "_RETRY_EARLY", {**object_clients._RETRY_EARLY, "max_retries": 1})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        text = early(endpoint, monkeypatch)
    assert f"endpoint {endpoint} doesn't answer; check AWS_ENDPOINT_URL and the network" in text


@pytest.mark.parametrize(
    ("text", "trouble", "unclear", "out_of_reach"),
    [
        ("... non-2xx status code: 503 Service Unavailable: x", True, False, False),
        ("... non-2xx status code: 429 Too Many Requests: x", True, False, False),
        ("... non-2xx status code: 404 Not Found: x", False, False, False),
        ("... non-2xx status code: 409 Conflict: <Code>ConditionalRequestConflict</Code>", True, False, False),
        ("... non-2xx status code: 412 Precondition Failed: x", False, False, False),
        ("error sending request\n\nDebug source:\n kind: Connect,", True, False, True),
        ("error sending request\n\nDebug source:\n kind: Interrupted,", True, True, False),
        ("error sending request\n\nDebug source:\n kind: Timeout,", True, True, False),
    ],
)
def test_what_is_worth_another_try(text: str, trouble: bool, unclear: bool, out_of_reach: bool) -> None:
    error = exceptions.GenericError(text)
    assert (is_trouble(error), is_unclear(error), is_out_of_reach(error)) == (trouble, unclear, out_of_reach)


def test_a_server_that_stays_busy(refusing: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_clients, "_RETRY", {**object_clients._RETRY, "max_retries": 2})
    refusing.faults = Faults(slow_down_share=1.0)
    for action in ("read", "look up"):
        assert "the server is too busy and stayed so over all repetitions; try again later" in told(ACTIONS[action])
    assert refusing.counts() == {"GET": 3, "HEAD": 3}


def test_names_of_keys_tell_nothing() -> None:
    error = exceptions.GenericError("Error performing GET http://host/bucket/credentials/metadata in 1ms - status 500")
    assert "the store failed" in str(our_error(error, f"{URL}/credentials/metadata", "s3", "read"))
