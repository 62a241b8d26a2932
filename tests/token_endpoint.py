"""A Google that only gives tokens, on this machine."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.auth import crypt, jwt


@contextmanager
def token_endpoint(
    account: dict[str, str],
    lifetime: float = 3600,
    delay: float = 0,
    refusal: str = "",
    refused: str = "/token",
) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield the account's key in Google's own universe, and the tokens given for it so far.

    Args:
        account: the key that signs the tokens, which those who trust this key let in.
        lifetime: seconds that each token lives.
        delay: seconds before each answer.
        refusal: why none is given at addresses that start with `refused`.
    """
    tokens: list[str] = []
    signer = crypt.RSASigner.from_service_account_info(account)

    def new_token() -> str:
        claims = {"iat": time.time(), "exp": time.time() + 3600, "jti": str(len(tokens))}
        return jwt.encode(signer, claims).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            time.sleep(delay)
            tokens.append(new_token())
            expiry = datetime.now(UTC) + timedelta(seconds=lifetime)
            answer = {
                # Read by clients of OAuth (a key, a refresh token) and STS (a federated identity).
                "access_token": tokens[-1],
                "expires_in": lifetime,
                "token_type": "Bearer",
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                # Read by clients of IAM, which act as another account.
                "accessToken": tokens[-1],
                "expireTime": f"{expiry:%Y-%m-%dT%H:%M:%SZ}",
            }
            refuses = bool(refusal) and self.path.startswith(refused)
            if refuses:
                answer = {"error": "invalid_grant", "error_description": refusal}
            body = json.dumps(answer).encode()
            self.send_response(400 if refuses else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/token"
        yield account | {"token_uri": uri, "universe_domain": "googleapis.com"}, tokens
        server.shutdown()
