"""A stand-in for api.github.com: the files of this project, over TLS, behind a proxy."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bi_pipeline.settings import PROJECT_ROOT

HOST = "api.github.com"
CONTENTS = "/repos/equipe/projet/contents/"


class StandInGithub(ThreadingHTTPServer):
    """A proxy of 127.0.0.1 that is itself what is behind `CONNECT api.github.com:443`.

    Answers `GET /repos/equipe/projet/contents/PATH?ref=main` with the text of the file, and 404 to
    anything else.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        certificate = folder / "github.pem"
        certificate.write_bytes(make_certificate())
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.environment = {
            "HTTPS_PROXY": f"http://127.0.0.1:{self.server_port}",
            "NO_PROXY": "127.0.0.1",
            "SSL_CERT_FILE": str(certificate),
        }


class Handler(BaseHTTPRequestHandler):
    """One connection: what asks for GitHub, then for a file."""

    server: StandInGithub

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        with self.server.context.wrap_socket(self.connection, server_side=True) as tls:
            self.rfile, self.wfile = tls.makefile("rb"), tls.makefile("wb")
            self.handle_one_request()
        self.close_connection = True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        file = PROJECT_ROOT / path.removeprefix(CONTENTS)
        known = path.startswith(CONTENTS) and query == "ref=main" and file.is_file()
        self.send_response(200 if known else 404)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(file.read_bytes() if known else b"")
        self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        """Keep the output of the tests clean."""


def make_certificate() -> bytes:
    """Return a certificate of the host that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@contextmanager
def stand_in_github(folder: Path) -> Iterator[StandInGithub]:
    """Yield a stand-in, its certificate in `folder`, that answers until the end of the block."""
    with StandInGithub(folder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
