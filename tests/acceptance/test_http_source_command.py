"""`producer_from_cli --http-source`: a paginated API into a stream, and what is said when it can't be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.acceptance.conftest import Shell

pytestmark = pytest.mark.slow
ITEMS = [{"session_id": f"s{number % 4}", "n": number} for number in range(25)]


class Pages(BaseHTTPRequestHandler):
    """Serves ITEMS by offset and limit."""

    def do_GET(self) -> None:
        """Answer one page, with the right token only."""
        query = parse_qs(urlsplit(self.path).query)
        start, size = int(query["offset"][0]), int(query["limit"][0])
        is_known = self.headers["Authorization"] == "Bearer right"
        body = json.dumps({"items": ITEMS[start : start + size]}).encode() if is_known else b""
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Serve on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/visits"
        server.shutdown()
        thread.join()


def test_an_api_is_read_once_and_resumed(shell: Shell, address: str) -> None:
    """All items arrive; a second run finds nothing new; bad descriptions and tokens get a line and a hint."""
    client = shell.client("kinesis")
    client.create_stream(StreamName="from-api", ShardCount=1)
    client.get_waiter("stream_exists").wait(StreamName="from-api", WaiterConfig={"Delay": 1})
    plan = shell.folder / "api.toml"
    text = f'url = "{address}"\nstyle = "offset"\nitems = "items"\npage_items_max = 10\n'
    plan.write_text(f'{text}[token]\nenvironment = "API_TOKEN"\n')
    command = ("producer_from_cli", "--stream", "from-api", "--http-source", str(plan), "--output", "json")
    for events in (25, 0):
        done = shell.run(*command, API_TOKEN="right")
        assert done.code == 0, done.err
        summary = json.loads(done.out.splitlines()[-1])
        assert (summary["events"], summary["acknowledged"], summary["verdict"]) == (events, events, "ok")
    read = shell.run("consumer_from_cli", "--stream", "from-api", "--limit", "25", "--output", "json")
    assert sorted(json.loads(line)["data"]["n"] for line in read.out.splitlines()) == list(range(25))

    for code, words, environment, description in (
        (1, "refused the token", {"API_TOKEN": "wr0ng"}, plan.read_text()),
        (2, "API_TOKEN is not set", {}, plan.read_text()),
        (2, "is not TOML", {}, "url = "),
        (2, "`url` is not usable", {}, 'url = "ftp://a/b"'),
        (2, "`styel`", {}, f"{text}styel = 1"),
    ):
        plan.write_text(description)
        done = shell.run(*command, **environment)
        assert (done.code, words in done.err.splitlines()[0]) == (code, True), (words, done)
        assert "\n\nhint: " in done.err
        assert "Traceback" not in done.err
        assert "wr0ng" not in done.err
    assert shell.run(*command, "--follow").code == 2
