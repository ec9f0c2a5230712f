"""An LMTP client: one connection, many deliveries, one answer for each recipient."""

import socket


class Error(Exception):
    pass


class Lmtp:
    def __init__(self, port, timeout=60):
        self.s = socket.create_connection(("127.0.0.1", port), timeout)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.f = self.s.makefile("rb")
        self._expect(220)
        self._say("LHLO test", 250)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self._say("QUIT", 221)
        except (OSError, Error):
            pass
        self.f.close()
        self.s.close()

    close = __exit__

    def _reply(self):
        text = []
        while True:
            line = self.f.readline()
            if not line.endswith(b"\n"):
                raise Error("connection lost in a reply")
            text.append(line[4:].decode(errors="replace").rstrip())
            if line[3:4] != b"-":
                return int(line[:3]), " / ".join(text)

    def _expect(self, code):
        got, text = self._reply()
        if got != code:
            raise Error(f"{got} {text}")

    def _say(self, line, code):
        self.s.sendall(line.encode() + b"\r\n")
        self._expect(code)

    def send(self, recipients, message, sender="<>"):
        """Deliver to several; returns {recipient: (code, text)}."""
        self._say(f"MAIL FROM:{sender}", 250)
        answers, accepted = {}, []
        for who in recipients:
            self.s.sendall(f"RCPT TO:<{who}>\r\n".encode())
            got = self._reply()
            if got[0] == 250:
                accepted.append(who)
            else:
                answers[who] = got
        if not accepted:
            self._say("RSET", 250)
            return answers
        self._say("DATA", 354)
        data = message.replace(b"\n.", b"\n..")
        if data.startswith(b"."):
            data = b"." + data
        if not data.endswith(b"\r\n"):
            data += b"\r\n"
        self.s.sendall(data + b".\r\n")
        for who in accepted:
            answers[who] = self._reply()
        return answers

    def deliver(self, recipients, message):
        """As send, but anything else than 250 is an error."""
        if isinstance(recipients, str):
            recipients = [recipients]
        for who, (code, text) in self.send(recipients, message).items():
            if code != 250:
                raise Error(f"{who}: {code} {text}")
