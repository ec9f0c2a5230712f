"""One call of a mount's control socket, without starting a process for it."""

import socket


def ask(slot, line, limit=60):
    """(whether it went well, text) of the answer to that line."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(limit)
        s.connect(f"{slot.state}/control")
        s.sendall(line.encode() + b"\n")
        answer = b"".join(iter(lambda: s.recv(65536), b""))
    head, _, text = answer.partition(b"\n")
    return head.startswith(b"ok"), text.decode()
