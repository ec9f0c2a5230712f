"""Mixed load with a ledger: LMTP deliveries and IMAP changes on several connections.

Every message carries a number. What was answered with 250 or OK is in the ledger, so that
after any disaster verify() can say what is missing. A client that sees an error is itself
a finding: errors lists them.
"""

import os
import random
import re
import threading
import time

import case
import imap
import lmtp
import mail
import spools
import witness

NUMBER = re.compile(rb"^Message-ID: <m(\d+)\.", re.M | re.I)


class Load:
    def __init__(self, server, users, lmtp_connections=4, imap_connections=4,
                 deliveries=None, size=3000, seed=1, immediate=False):
        self.server, self.users = server, users
        self.n_lmtp, self.n_imap = lmtp_connections, imap_connections
        self.left = deliveries
        self.size, self.seed = size, seed
        self.lock = threading.Lock()
        self.number = seed * 10_000_000
        self.stored = set()        # (user, number) answered 250 or OK
        self.removed = set()       # (user, number) that an expunge was asked for
        self.actions = 0
        self.errors = []
        self.stopping = threading.Event()
        self.threads = []

    def start(self):
        deliver = [(self._deliver, i) for i in range(self.n_lmtp)]
        change = [(self._change, i) for i in range(self.n_imap)]
        for function, i in deliver + change:
            thread = threading.Thread(target=self._guard, args=(function, i), daemon=True)
            thread.start()
            self.threads.append((function, thread))
        return self

    def _guard(self, function, i):
        try:
            function(i, random.Random(f"{self.seed} {function.__name__} {i}"))
        except Exception as why:
            self.errors.append(f"{time.strftime('%T')} {function.__name__} {i}: "
                               f"{type(why).__name__}: {why}")

    def finish(self, limit=600):
        """With a number of deliveries: until all are done. Then stop the rest."""
        end = time.monotonic() + limit
        for function, thread in self.threads:
            if function == self._deliver and self.left is not None:
                thread.join(max(0, end - time.monotonic()))
        self.stop()

    def stop(self):
        self.stopping.set()
        for function, thread in self.threads:
            thread.join(90)
            case.check(not thread.is_alive(), f"{function.__name__} hangs")

    def _next(self):
        with self.lock:
            if self.left is not None:
                if self.left <= 0:
                    return None
                self.left -= 1
            self.number += 1
            return self.number

    def _deliver(self, _, rng):
        with lmtp.Lmtp(self.server.lmtp_port) as c:
            while not self.stopping.is_set():
                n = self._next()
                if n is None:
                    return
                many = rng.choice((1, 1, 1, 2, 3))
                to = rng.sample(self.users, min(many, len(self.users)))
                text = mail.message(n, rng.randrange(400, 2 * self.size))
                answers = c.send(to, text)
                for who, (code, why) in answers.items():
                    if code == 250:
                        self.stored.add((who, n))
                    else:
                        self.errors.append(f"deliver {n} to {who}: {code} {why}")
                self.actions += 1

    def _change(self, i, rng):
        """One thread has its own users, so that it knows what it expunges."""
        mine = self.users[i::self.n_imap]
        while not self.stopping.is_set() and mine:
            user = rng.choice(mine)
            with imap.Imap(self.server.imap_port, user) as c:
                for _ in range(rng.randrange(3, 12)):
                    if self.stopping.is_set():
                        break
                    self._act(c, user, rng)
                    self.actions += 1

    def _act(self, c, user, rng):
        box, other = rng.choice((("INBOX", "INBOX/Old"), ("INBOX/Old", "INBOX")))
        c.select(box)
        uids = c.search()
        what = rng.choices(("flags", "copy", "move", "expunge", "append"),
                           (6, 2, 2, 1, 2))[0]
        if what == "append":
            n = self._next()
            if n is None:
                return
            c.append(box, mail.message(n, rng.randrange(400, 2 * self.size)), "\\Seen")
            self.stored.add((user, n))
            return
        if not uids:
            return
        chosen = rng.sample(uids, min(len(uids), rng.randrange(1, 5)))
        which = ",".join(map(str, sorted(chosen)))
        if what == "flags":
            c.store(which, rng.choice(("+FLAGS", "-FLAGS")), rng.choice(
                ("\\Seen", "\\Flagged", "\\Answered", "$label1", "$label2 \\Seen")))
        elif what == "copy":
            c.copy(which, other)
        elif what == "move":
            c.move(which, other)
        else:
            for uid in chosen[:2]:
                found = NUMBER.search(c.body(uid) or b"")
                if found:
                    self.removed.add((user, int(found.group(1))))
            which = ",".join(map(str, sorted(chosen[:2])))
            c.store(which, "+FLAGS", "\\Deleted")
            c.expunge(which)

    def verify(self, *roots):
        """Everything answered is in each of the trees; no client saw an error."""
        case.check(not self.errors, lambda: f"{len(self.errors)} client errors\n"
                   + spools.listed(self.errors, 10))
        for root in roots:
            held = contents(root)
            missing = sorted((u, n) for u, n in self.stored - self.removed
                             if n not in held.get(u, ()))
            case.check(not missing, lambda: f"{root} lacks {len(missing)} of "
                       f"{len(self.stored)} messages: {missing[:5]}")
        case.note(f"{len(self.stored)} messages stored, {self.actions} actions")


def contents(root):
    """user -> numbers of the messages that are visible in any of the user's mailboxes."""
    held, seen = {}, {}
    for where in spools.mailboxes(root):
        box = witness.Mailbox(os.path.join(root, where))
        name = (box.header["N"] or b"").decode().split(".")
        if len(name) < 2 or name[0] != "user":
            continue
        numbers = held.setdefault(name[1].replace("^", "."), set())
        for rec in box.index.records.values():
            if rec["flags"] & witness.EXPUNGED:
                continue
            path = os.path.join(root, where, f"{rec['uid']}.")
            inode = os.stat(path).st_ino
            if inode not in seen:
                with open(path, "rb") as f:
                    found = NUMBER.search(f.read(4096))
                seen[inode] = int(found.group(1)) if found else None
            numbers.add(seen[inode])
    return held
