"""The image that every system starts from, and the messages that clients send.

    u0 ... u15   INBOX with a few messages: deliveries, APPEND
    f0 ... f3    INBOX with a thousand: flags, FETCH, COPY, EXPUNGE
    big          INBOX with 40,000: listing and SELECT
    probe        INBOX, for the lag
"""

import os
import zlib

import cyrus
import disk
import mail

DELIVER = [f"u{n}" for n in range(16)]
FLAGS = [f"f{n}" for n in range(4)]
MARK = "@" * 10
PER_FLAGS = 1000


def pool(path, size, count):
    """Messages for the load generator, see loadgen.c."""
    with open(path, "wb") as f:
        for n in range(count):
            text = mail.message(n, size, subject=f"message {MARK}")
            f.write(b"%d\n" % len(text) + text)
    return path


def pools(folder):
    # More text than the window of a compression, or one message would be sent as the other's
    # repetition.
    return {4000: pool(f"{folder}/pool-4k", 4000, 64),
            100_000: pool(f"{folder}/pool-100k", 100_000, 16)}


def fill(server, user, messages, size):
    """Message files as Cyrus names them, then its own reconstruct makes the index."""
    path = server.mailbox_dir(f"user.{user}")
    st = os.stat(path)
    # No two messages of any users are the same: that would be replicated as a link.
    first = zlib.crc32(user.encode()) % 1_000_000 * 1000
    bodies = [mail.message(first + n, size, subject=f"message {MARK}")
              for n in range(200)]
    for uid in range(1, messages + 1):
        name = f"{path}/{uid}."
        with open(name, "wb") as f:
            f.write(bodies[uid % len(bodies)].replace(MARK.encode(), b"%010d" % uid))
        os.chown(name, st.st_uid, st.st_gid)
        os.chmod(name, 0o600)
    server.run("reconstruct", f"user/{user}", limit=600)


def make(folder, big, gigabytes):
    d = disk.Disk(folder, "golden", gigabytes).mount()
    # In the root of the disk, which is 0755 and root's.
    os.makedirs(f"{d.path}/c")
    server = cyrus.Cyrus(f"{d.path}/c", f"{d.path}/spool").start()
    server.add_user(*DELIVER, *FLAGS, "probe", *(["big"] if big else []))
    with server.lmtp() as c:
        for n, user in enumerate(DELIVER + ["probe"]):
            for i in range(10):
                c.deliver(user, mail.message(n * 100 + i, 4000))
    server.stop()
    for user in FLAGS:
        fill(server, user, PER_FLAGS, 4000)
    if big:
        fill(server, "big", big, 4000)
    d.umount()
    return d
