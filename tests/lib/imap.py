"""Thin IMAP verbs on imaplib: each returns what came, or raises Error with the answer.

Users log in through the administrator's right to act for anybody, so no accounts are
made for them.
"""

import imaplib
import re
import socket

imaplib._MAXLINE = 50_000_000


class Error(Exception):
    pass


def quote(name):
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Imap:
    def __init__(self, port, user="cyrus", timeout=60):
        self.user = user
        self.c = imaplib.IMAP4("127.0.0.1", port, timeout)
        # Or each literal waits 40 ms for a delayed acknowledgement.
        self.c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        who = "" if user == "cyrus" else user
        self._ok(self.c.authenticate("PLAIN", lambda _: f"{who}\0cyrus\0x".encode()))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.c.logout() if kind is None else self.c.shutdown()
        except (OSError, imaplib.IMAP4.error):
            pass

    close = __exit__

    def _ok(self, answer):
        status, data = answer
        if status != "OK":
            raise Error(f"{status} {data}")
        return data

    def _command(self, name, *args):
        """A command that imaplib does not know."""
        if name not in imaplib.Commands:
            imaplib.Commands[name] = ("AUTH", "SELECTED")
        return self._ok(self.c._simple_command(name, *args))

    def append(self, box, message, flags="", when=None):
        """Returns the UID the message got."""
        self._ok(self.c.append(quote(box), flags, when, message))
        return self._uids("APPENDUID")

    def _uids(self, code):
        got = self.c.response(code)[1]
        if not got or got[0] is None:
            return None
        found = re.match(rb"\d+ (?:\S+ )?(\d+)$", got[-1])
        return int(found.group(1)) if found else got[-1].decode()

    def select(self, box="INBOX", readonly=False):
        return int(self._ok(self.c.select(quote(box), readonly))[0])

    def unselect(self):
        self._ok(self.c.unselect())

    def noop(self):
        self._ok(self.c.noop())

    def store(self, uids, how, flags):
        """store("1:3", "+FLAGS", "\\Seen $Label1")"""
        return self._ok(self.c.uid("STORE", uids, how, f"({flags})"))

    def copy(self, uids, box):
        return self._ok(self.c.uid("COPY", uids, quote(box)))

    def move(self, uids, box):
        return self._ok(self.c.uid("MOVE", uids, quote(box)))

    def expunge(self, uids=None):
        if uids is None:
            return self._ok(self.c.expunge())
        return self._ok(self.c.uid("EXPUNGE", uids))

    def search(self, *criteria):
        data = self._ok(self.c.uid("SEARCH", *(criteria or ("ALL",))))
        return [int(n) for n in data[0].split()] if data and data[0] else []

    def fetch(self, uids, what):
        return self._ok(self.c.uid("FETCH", uids, what))

    def body(self, uid):
        for part in self.fetch(str(uid), "(BODY.PEEK[])"):
            if isinstance(part, tuple):
                return part[1]
        return None

    def create(self, box):
        self._ok(self.c.create(quote(box)))

    def rename(self, old, new):
        self._ok(self.c.rename(quote(old), quote(new)))

    def delete(self, box):
        self._ok(self.c.delete(quote(box)))

    def list(self, pattern="*"):
        names = []
        for line in self._ok(self.c.list('""', quote(pattern))):
            if line:
                names.append(line.decode().rpartition(' "/" ')[2].strip('"'))
        return names

    def setacl(self, box, who, rights):
        self._ok(self.c.setacl(quote(box), who, rights))

    def deleteacl(self, box, who):
        self._ok(self.c.deleteacl(quote(box), who))

    def setquota(self, root, kib):
        self._ok(self.c.setquota(quote(root), f"(STORAGE {kib})"))

    def setmetadata(self, box, entry, value):
        self._command("SETMETADATA", quote(box), f"({entry} {quote(value)})")

    def annotate(self, uids, entry, value, kind="value.shared"):
        """A message annotation (RFC 5257); value None removes it."""
        value = "NIL" if value is None else quote(value)
        return self._ok(
            self.c.uid("STORE", uids, "ANNOTATION", f"({entry} ({kind} {value}))"))
