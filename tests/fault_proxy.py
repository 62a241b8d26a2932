"""An HTTP proxy that stands before the local BigQuery, counts, and fails on demand.

It forwards everything as it is. A `Fault` picks requests by their moment in the life of
a query and, for queries, by the dbt node that they belong to, and answers in place of
BigQuery a given number of times. It can bill queries, as the local BigQuery does not.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Moment = Literal["metadata", "submit", "submitted", "job", "poll"]


@dataclass
class Reply:
    """The answer of BigQuery or of the fault; no status at all is a connection reset."""

    status: int | None
    body: bytes = b""
    location: str | None = None


def error_reply(status: int, reason: str, message: str) -> Reply:
    """Return an error as BigQuery writes it."""
    details = {"reason": reason, "message": message, "domain": "global"}
    error = {"code": status, "message": message, "errors": [details]}
    return Reply(status, json.dumps({"error": error}).encode())


RESET = Reply(None)
# In the answer for a job that has ended: of `jobs` or of `queries`.
ENDED = re.compile(rb'"state":\s*"DONE"|"jobComplete":\s*true')
CONFLICT = error_reply(HTTPStatus.CONFLICT, "duplicate", "Already Exists: Job")


@dataclass
class Fault:
    """A fault: `reply` at this moment, for this node, the first `times` times.

    Moments: `metadata` (any request but a query's), `submit` (the query does not reach
    BigQuery), `submitted` (it does, the answer is lost), `job` (BigQuery takes the query
    and its job fails: `reply` is the error), `poll` (waiting for the rows).
    """

    moment: Moment
    reply: Reply
    node: str = ""
    times: int = 1


@dataclass
class Request:
    """One request of dbt, and the node that its query belongs to."""

    method: str
    path: str
    body: bytes
    headers: Message[str, str]
    node: str = ""
    job_id: str = ""

    @property
    def moment(self) -> Moment:
        """The moment of a query's life that this request is."""
        if self.method == "POST" and re.fullmatch(r"/bigquery/[^?]*/jobs", self.path.split("?")[0]):
            return "submit"
        return "poll" if re.search(r"/(queries|jobs)/", self.path) else "metadata"


@dataclass
class FaultProxy:
    """The proxy: its URL, its faults, the queries that BigQuery took and their nodes.

    With `billed`, it lists the jobs in BigQuery's place, each billed so many bytes. `on_query` is
    called with the node before a query goes to BigQuery; `cancelled` has the nodes of the jobs that
    dbt asked to cancel before they had ended; after `die()`, nothing listens any more. `on_dry_run`
    answers dry runs in the place of bqemulator.
    """

    upstream: str
    url: str = ""
    billed: int = 0
    faults: list[Fault] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    configurations: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    on_query: Callable[[str], None] = lambda _: None
    on_dry_run: Callable[[str], Reply] | None = None
    die: Callable[[], None] = lambda: None
    _nodes: dict[str, str] = field(default_factory=dict)
    _submitted: set[str] = field(default_factory=set)
    _ended: set[str] = field(default_factory=set)
    _failed_jobs: dict[str, Reply] = field(default_factory=dict)
    _jobs: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request, from BigQuery or from a fault."""
        if request.moment == "submit" and self.on_dry_run:
            configuration = json.loads(request.body)["configuration"]
            if configuration.get("dryRun"):
                return self.on_dry_run(configuration["query"]["query"])
        self._identify(request)
        if request.job_id in self._failed_jobs:
            return self._answer_for_failed_job(request)
        if fault := self._take_fault(request, request.moment):
            return fault.reply
        if self.billed and re.search(r"/jobs\?", request.path) and request.method == "GET":
            return Reply(HTTPStatus.OK, json.dumps({"jobs": self._jobs}).encode())
        if request.moment != "submit":
            return self._forward(request)
        if request.job_id in self._submitted:
            # bqemulator 1.4.0 would run the job of a known id again; BigQuery answers 409.
            return CONFLICT
        if fault := self._take_fault(request, "job"):
            self._failed_jobs[request.job_id] = fault.reply
            return self._answer_for_failed_job(request)
        self.on_query(request.node)
        self._submitted.add(request.job_id)
        self.queries.append(request.node)
        body = json.loads(request.body)
        self.configurations.append(body["configuration"])
        self._jobs.append(
            {
                "jobReference": {**body["jobReference"], "location": "US"},
                "configuration": body["configuration"],
                "statistics": {"query": {"totalBytesBilled": str(self.billed)}},
            }
        )
        reply = self._forward(request)
        fault = self._take_fault(request, "submitted")
        return fault.reply if fault else reply

    def _identify(self, request: Request) -> None:
        """Give the request its job and its node, which dbt names at the head of the query."""
        if request.moment == "submit":
            body = json.loads(request.body)
            comment = re.search(r'"node_id": "([^"]+)"', body["configuration"]["query"]["query"])
            request.job_id = body["jobReference"]["jobId"]
            request.node = comment.group(1).split(".")[2] if comment else ""
            self._nodes[request.job_id] = request.node
        elif job := re.search(r"/(?:queries|jobs)/([^/?]+)(/cancel)?", request.path):
            request.job_id = job.group(1)
            request.node = self._nodes.get(request.job_id, "")
            # dbt-bigquery 1.12.1 asks to cancel all the jobs that a thread has ever had: those that
            # have ended come along when the next model has taken the same thread.
            if job.group(2) and request.job_id not in self._ended:
                self.cancelled.append(request.node)

    def _answer_for_failed_job(self, request: Request) -> Reply:
        """Answer as BigQuery does for a job that has failed, however it is asked for."""
        error = json.loads(self._failed_jobs[request.job_id].body)["error"]["errors"][0]
        if "/queries/" in request.path:
            return self._failed_jobs[request.job_id]
        job = {
            "jobReference": {
                "projectId": "projet-local",
                "jobId": request.job_id,
                "location": "US",
            },
            "configuration": {"query": {"query": "select 1"}},
            "status": {"state": "DONE", "errorResult": error, "errors": [error]},
        }
        return Reply(HTTPStatus.OK, json.dumps(job).encode())

    def _take_fault(self, request: Request, moment: Moment) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.moment == moment and fault.times and fault.node in request.node:
                    fault.times -= 1
                    return fault
        return None

    def _forward(self, request: Request) -> Reply:
        connection = HTTPConnection(urlsplit(self.upstream).netloc, timeout=120)
        # The local BigQuery refuses a Host that is not its own: http.client then sends its address.
        ours = ("accept-encoding", "host")
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ours}
        try:
            connection.request(request.method, request.path, request.body, headers)
            response = connection.getresponse()
            # BigQuery says there where a file is to be uploaded: a seed's.
            location = response.headers.get("Location")
            reply = Reply(response.status, response.read(), location)
            if ENDED.search(reply.body):
                self._ended.add(request.job_id)
            return reply
        except OSError:
            # A test has killed the local BigQuery: the client has to see that, not an error 500.
            return RESET
        finally:
            connection.close()


@contextmanager
def fault_proxy(upstream: str, certificate: Path | None = None) -> Iterator[FaultProxy]:
    """Yield a proxy before the BigQuery at `upstream`, on 127.0.0.1.

    With a certificate for localhost (`make_certificate`), its URL is https://localhost: for the
    pipeline, it is then no BigQuery of this machine.
    """
    proxy = FaultProxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply = proxy.answer(Request(self.command, self.path, body, self.headers))
            if reply.status is None:
                # With SO_LINGER at 0 s, close() sends RST: the client sees a connection reset.
                self.close_connection = True
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply.body)))
            if reply.location:
                self.send_header("Location", reply.location)
            # A dbt that was stopped meanwhile has closed the connection: to answer it raises.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        proxy.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def die() -> None:
        server.shutdown()
        server.server_close()

    proxy.die = die
    try:
        yield proxy
    finally:
        die()


def make_certificate(path: Path) -> Path:
    """Write a key and a certificate of its own for localhost, valid for a day; return the path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + certificate.public_bytes(encoding))
    return path
