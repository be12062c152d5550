"""Raw HTTP/1.1 for tests: a client that takes answers apart strictly, and a server that answers any bytes at all."""

import contextlib
import re
import socket
import threading

DEADLINE = 20.0  # s; for whatever should take no time. Below the 30 s after which a proxy gives a peer up


def equal(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what}: got {short(got)}, wanted {short(wanted)}")


def short(value):
    text = repr(value)
    return text if len(text) < 400 else text[:300] + f"... ({len(text)} characters)"


def place_of(address):
    """"127.0.0.1:80" or "unix:/x" -> (family, what connect() takes)."""
    if address.startswith("unix:"):
        return socket.AF_UNIX, address[5:].replace("@", "\0", 1)
    host, port = address.rsplit(":", 1)
    host = host.strip("[]")
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))


class Response:
    def __init__(self, head, body, interim):
        lines = head.split(b"\r\n")
        match = re.match(rb"HTTP/(\d\.\d) (\d{3})(?: (.*))?$", lines[0])
        assert match, f"not a status line: {lines[0]!r}"
        self.head, self.body, self.interim = head, body, interim
        self.version, self.status, self.reason = match.group(1).decode(), int(match.group(2)), match.group(3)
        self.fields = [tuple(part.strip() for part in line.split(b":", 1)) for line in lines[1:]]

    def values(self, name):
        return [v.decode("latin-1") for n, v in self.fields if n.lower() == name.lower().encode()]

    def value(self, name):
        return (self.values(name) or [None])[0]


class Closed(AssertionError):
    """The peer closed where a response was due. `got`: what had come."""

    def __init__(self, got):
        super().__init__(f"closed after {short(got)}")
        self.got = got


class Client:
    """One connection. Everything it says and hears is bytes; answers are taken apart strictly."""

    def __init__(self, address, timeout=DEADLINE):
        family, to = place_of(address)
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(to)
        if family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""

    def send(self, data):
        self.socket.sendall(data)

    def more(self):
        """Receives; False at the end. A reset counts as the end."""
        try:
            got = self.socket.recv(1 << 20)
        except ConnectionResetError:
            got = b""
        self.pending += got
        return bool(got)

    def line_block(self):
        while b"\r\n\r\n" not in self.pending:
            if not self.more():
                raise Closed(self.pending)
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        return head

    def exactly(self, count):
        parts, have = [self.pending], len(self.pending)
        while have < count:
            self.pending = b""
            if not self.more():
                raise Closed(b"".join(parts))
            parts.append(self.pending)
            have += len(self.pending)
        data = b"".join(parts)
        self.pending = data[count:]
        return data[:count]

    def chunks(self):
        body = []
        while True:
            while b"\r\n" not in self.pending:
                if not self.more():
                    raise Closed(b"".join(body))
            line, self.pending = self.pending.split(b"\r\n", 1)
            size = int(line, 16)
            if size:
                body.append(self.exactly(size))
            equal(self.exactly(2), b"\r\n", "after a chunk")
            if size == 0:
                return b"".join(body)

    def response(self, to_head=False):
        """The next final response, with the interim ones before it."""
        interim = []
        while True:
            found = Response(self.line_block(), b"", [])
            if found.status >= 200 or found.status == 101:
                break
            interim.append(found)
        found.interim = interim
        if to_head or found.status in (101, 204, 304):
            return found
        if (found.value("transfer-encoding") or "").lower() == "chunked":
            found.body = self.chunks()
        elif found.value("content-length") is not None:
            found.body = self.exactly(int(found.value("content-length")))
        else:
            found.body = self.rest()
        return found

    def ask(self, request, to_head=False):
        self.send(request)
        return self.response(to_head)

    def rest(self):
        """Everything up to the end."""
        while self.more():
            pass
        data, self.pending = self.pending, b""
        return data

    def closed(self):
        """The peer has closed, or does so now, without another byte."""
        return self.rest() == b""

    def is_quiet(self):
        """Nothing, not even an end, is there to be read now."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return not self.pending
        except ConnectionResetError:
            return False
        finally:
            self.socket.settimeout(DEADLINE)

    def reset(self):
        """Closes with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def get(path="/", version="1.1", **fields):
    return request("GET", path, version=version, **fields)


def request(method, path="/", body=b"", version="1.1", **fields):
    """A well-formed request; x_y=... becomes the field X-Y."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test"]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Upstream:
    """A server of raw bytes. It records what each connection sent, and answers each complete request with the next
    of `answers` (the last one for ever): bytes, or a function (connection, request) -> bytes or None.
    Answers that end with CLOSE or RESET say what follows."""

    CLOSE, RESET = object(), object()

    def __init__(self, *answers, at="127.0.0.1:0"):
        self.answers = list(answers) or [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
        family, to = place_of(at)
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(to)
        self.listener.listen(512)
        self.address = "%s:%d" % self.listener.getsockname()[:2] if family == socket.AF_INET else at
        self.lock = threading.Lock()
        self.requests = []      # of every connection, in the order they were complete
        self.raw = []           # per connection: all bytes
        self.sockets = []
        self.closes = 0         # answers that ended with CLOSE or RESET, and have done so
        self.ended = []         # per connection: how the peer ended it: None, "fin", "reset"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                index = len(self.raw)
                self.raw.append(b"")
                self.sockets.append(connection)
                self.ended.append(None)
            threading.Thread(target=self._serve, args=(connection, index), daemon=True).start()

    def _serve(self, connection, index):
        pending = b""
        with contextlib.suppress(OSError):
            while True:
                found = self._complete(pending)
                if found:
                    pending = pending[len(found):]
                    if not self._answer(connection, found):
                        return
                    continue
                try:
                    got = connection.recv(1 << 20)
                except ConnectionResetError:
                    self.ended[index] = "reset"
                    return
                if not got:
                    self.ended[index] = "fin"
                    return
                self.raw[index] += got
                pending += got

    @staticmethod
    def _complete(pending):
        """The first request in `pending` if all of it is there."""
        end = pending.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        head = pending[:end].lower()
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        if length:
            end += int(length.group(1))
            return pending[:end] if len(pending) >= end else None
        if b"\r\ntransfer-encoding: chunked" in head:
            last = pending.find(b"0\r\n\r\n", end) if not pending[end:].startswith(b"0\r\n") else end
            stop = pending.find(b"\r\n\r\n", last) + 4 if last >= 0 else 0
            return pending[:stop] if stop >= 4 and last >= 0 else None
        return pending[:end]

    def _answer(self, connection, found):
        with self.lock:
            self.requests.append(found)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        for part in answer if isinstance(answer, (tuple, list)) else (answer,):
            if part in (Upstream.CLOSE, Upstream.RESET):
                if part is Upstream.RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
                self.closes += 1
                return False
            data = part(connection, found) if callable(part) else part
            if data:
                connection.sendall(data)
        return True

    def close(self):
        self.listener.close()
        for connection in self.sockets:
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
