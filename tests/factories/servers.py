"""A server of one file on this machine."""

import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def served(content: bytes, ranges: bool = True):
    """A server of one file at /file.json; yields its address and the byte at which each answer began."""
    begun: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/file.json":
                return self.send_error(404)
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) if ranges else None
            start = int(wanted[1]) if wanted else 0
            if start >= len(content):
                return self.send_error(416)
            begun.append(start)
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])
            return None

        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", begun
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
