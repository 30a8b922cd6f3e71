"""Every client of ours that speaks TLS refuses a server whose certificate nobody vouches for, and tells it nothing."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from jobs.kubernetes import api
from jobs.kubernetes.api import RayJobs
from jobs.submission.server import JobServer
from pipelines.benchmark_building.captioners.endpoint import EndpointCaptioner, EndpointCaptionerConfig
from storage import object_clients
from storage.errors import InfrastructureError
from storage.objects import Objects

KEY = "key-of-nobody-else"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that nobody but itself vouches for, and its key."""
    folder.mkdir()
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


@dataclass
class Impostor:
    """A server with such a certificate."""

    url: str
    certificate: Path
    asked: list[str] = field(default_factory=list)
    """Request lines, with what they carried to be known by: none, as long as nobody trusts it."""


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    certificate, key = self_signed(tmp_path / "impostor")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found.asked.append(f"{self.requestline} {self.headers.get('Authorization', '')}")
            data = b'{"items": [], "ray_version": "2.50.0", "choices": [{"message": {"content": "{}"}}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that turns away is what is expected."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found = Impostor(f"https://127.0.0.1:{server.server_port}", certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tries again, as they would for a minute."""
    monkeypatch.setattr(object_clients, "_RETRY", {"max_retries": 0})
    monkeypatch.setattr(api, "_TRIES", 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def captioner(url: str) -> EndpointCaptioner:
    config = EndpointCaptionerConfig(url=f"{url}/v1", model="m", key_variable="CAPTIONS_KEY", max_retries=0)
    return EndpointCaptioner(config, {"CAPTIONS_KEY": KEY})


def cluster(url: str, certificate: Path, folder: Path) -> RayJobs:
    """The API server of Kubernetes, with a pod's account whose cluster has this certificate."""
    folder.mkdir()
    (folder / "token").write_text(KEY)
    (folder / "ca.crt").write_bytes(certificate.read_bytes())
    return RayJobs(url, "default", folder)


CLIENTS: Mapping[str, Callable[[Impostor, Path], object]] = {
    "the web": lambda impostor, _: Objects.open(f"{impostor.url}/folder").read("file"),
    "an object store": lambda impostor, _: Objects.open("s3://bucket/prefix").read("file"),
    "a captioner": lambda impostor, _: captioner(impostor.url)._post(b"{}"),
    "a job server": lambda impostor, _: JobServer.connect(impostor.url),
    "Kubernetes": lambda impostor, folder: cluster(
        impostor.url, self_signed(folder / "another")[0], folder / "account"
    ).labelled({}),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_of_nobody_is_refused(
    client: str, impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", impostor.url)
    with pytest.raises(InfrastructureError, match=r".+") as caught:
        CLIENTS[client](impostor, tmp_path)
    assert impostor.asked == []
    assert KEY not in str(caught.value)


TRUSTING: Mapping[str, Callable[[Impostor, Path], object]] = {
    "a captioner": CLIENTS["a captioner"],
    "a job server": CLIENTS["a job server"],
    "Kubernetes": lambda impostor, folder: cluster(impostor.url, impostor.certificate, folder / "account").labelled({}),
}


@pytest.mark.parametrize("client", TRUSTING)
def test_a_certificate_that_is_vouched_for_is_taken(
    client: str, impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this alone the test above knows that its server would have been asked."""
    monkeypatch.setenv("SSL_CERT_FILE", str(impostor.certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(impostor.certificate))
    TRUSTING[client](impostor, tmp_path)
    assert len(impostor.asked) >= 1
