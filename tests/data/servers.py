"""A local HTTP server that misbehaves on demand, for the tests of downloads."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Files", "serve"]


@dataclass
class Files:
    """What the server holds and how it behaves.

    Attributes:
      content: body by path.
      etag: validator sent with every file; "" for none.
      cut: bytes after which the connection is dropped, one entry an answer; [] when well.
      ranges: whether range requests are honoured.
      chunked: send without a length, so that only the framing shows an end.
      requests: (path, Range header or None) of every request so far.
    """

    content: dict[str, bytes]
    etag: str = '"v1"'
    cut: list[int] = field(default_factory=list)
    ranges: bool = True
    chunked: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(files: Files) -> Iterator[Files]:
    """Serves ``files`` on 127.0.0.1, at ``files.url``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Keeps quiet."""

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            files.requests.append((self.path, asked))
            self.close_connection = True
            body = files.content.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = 0
            match = re.fullmatch(r"bytes=(\d+)-", asked or "")
            if match and files.ranges and self.headers.get("If-Range") == files.etag:
                start = int(match[1])
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if files.etag:
                self.send_header("ETag", files.etag)
            rest = body[start:]
            sent = rest[: files.cut.pop(0)] if files.cut else rest
            if files.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n" % len(sent) + sent + b"\r\n")
                if len(sent) == len(rest):
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(sent)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
