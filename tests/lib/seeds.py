"""What a fuzzer begins with: golden files or parts of them, and its own corpus where it has one."""
import glob
import os
import shutil

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(TESTS, "golden")
FILES = {
    "index": ["*/cyrus.index"],
    "header": ["*/cyrus.header", "old.header"],
    "twoskip": ["*/cyrus.annotations", "conf/*.db"],
    "flat": ["conf/*.sub"],
    "quota": ["conf/user.*"],
}
# A byte in front says what it is.
DUMPED = ["*/cyrus.index", "*/cyrus.cache", "*/cyrus.header", "*/cyrus.annotations", "conf/*"]


def golden(pattern):
    for path in sorted(glob.glob(os.path.join(GOLDEN, pattern))):
        with open(path, "rb") as f:
            yield f.read()


def made(name):
    if name == "cache":
        # The first record begins behind the generation; what follows it does no harm.
        yield from (data[4:] for data in golden("*/cyrus.cache"))
    if name == "annot":
        value = (b"\0\0\0\3\0\0\0\0a b\0text/plain\0" + b"\0" * 8 + b"\0" * 7 + b"\x09\0")
        for of in (b"12", b"51wmmxqe3qsor71u0apqwrxl", b""):
            key = of + b"\0/comment\0[.OwNeR.]\0"
            yield bytes([len(key)]) + key + value
    if name == "imapd":
        yield (b"# imapd.conf\nConfigDirectory: /var/lib/cyrus\npartition-default: /var/spool\n"
               b"hashimapspool: \\\n yes\nfulldirhash: 1\nmboxlist_db: twoskip\n"
               b"mboxlist_db_path: /db/boxes\nannotation_db_path: /a\nquota_db: quotalegacy\n")
        yield b"@include: /etc/hostname\nannotation_db: sql\npartition-a : \\\n /b\n"
    if name == "dump":
        for i, pattern in enumerate(DUMPED):
            yield from (bytes([i]) + data for data in golden(pattern))
    if name == "session":
        # HELLO is there, and what follows is deflated: a frame is its length, its type, fields.
        for kind in range(1, 24):
            for n in (0, 3, 40):
                yield bytes([3, 1 + n, kind]) + b"\1" * n
    if name == "arrivals":
        body = b"B" + b"g" * 20 + b"a message"
        row = b"R" + (b"\0" * 7 + b"\1") * 3 + b"user/a\0a batch"
        yield bytes([1, len(body)]) + body + bytes([len(row)]) + row
    if name == "notes":
        yield b"\1user/a\nuser/b%20c\n-user/a\nx"


def fill(name, to):
    """Writes the first corpus of the fuzzer fuzz_NAME."""
    n = 0
    for data in [d for p in FILES.get(name, []) for d in golden(p)] + list(made(name)):
        with open(f"{to}/golden{n}", "wb") as f:
            f.write(data)
        n += 1
    own = os.path.join(TESTS, "fuzz", f"fuzz_{name}.corpus")
    if os.path.isdir(own):
        for f in os.listdir(own):
            shutil.copyfile(f"{own}/{f}", f"{to}/own-{f}")
