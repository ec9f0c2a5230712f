"""Messages for the tests: CRLF, reproducible from a number, of a wanted size."""

import email.utils
import random

WORDS = ("report meeting invoice the of and to a in lunch server change for result with "
         "please thanks draft tomorrow list order copy regards question answer").split()


def message(number=0, size=4000, subject=None, to="someone@example.org", body=None):
    rng = random.Random(number)
    head = (
        f"From: Sender {number % 97} <sender{number % 97}@example.org>\r\n"
        f"To: <{to}>\r\n"
        f"Subject: {subject or 'message ' + str(number)}\r\n"
        f"Date: {email.utils.formatdate(1_600_000_000 + number % 1_000_000 * 61)}\r\n"
        f"Message-ID: <m{number}.{rng.getrandbits(48):x}@example.org>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
    if body is None:
        lines, length = [], len(head)
        while length < size:
            line = " ".join(rng.choices(WORDS, k=rng.randrange(6, 13)))
            line += f" {rng.getrandbits(32):08x}\r\n"
            lines.append(line)
            length += len(line)
        body = "".join(lines)[:max(size - len(head) - 2, 2)] + "\r\n"
    return (head + body).encode()
