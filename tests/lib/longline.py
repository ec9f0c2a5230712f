"""A long line between two nodes: two network namespaces, with packets that take their time.

    line = longline.Line(milliseconds=50, megabits=100)     # in each direction
    two = pair.Pair(line=line)
    line.count()        # bytes that have come out at the far end of each direction

Made by tests/cyrus/longline.c with TUN devices, since not every kernel can delay by itself; so
TCP itself sees the round trip, and needs a window for it.
"""

import collections
import struct
import subprocess

import case

End = collections.namedtuple("End", "address within")
Count = collections.namedtuple("Count", "sent sent_packets sent_dropped back back_packets "
                                        "back_dropped")


class Line:
    def __init__(self, milliseconds, megabits):
        case.need("nsenter", "/dev/net/tun")
        self.bytes_per_second = megabits * 125_000
        self.file = f"{case.folder()}/count"
        self.proc = subprocess.Popen(
            [f"{case.BUILD}/tests/cyrus/longline", str(milliseconds), str(megabits), self.file],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        case.later(self.close)
        pids = self.proc.stdout.readline().split()
        if len(pids) != 2:
            raise case.Skip(f"no long line: {self.proc.stderr.read().decode().strip()}")
        self.ends = [End(f"10.77.0.{n + 1}", ["nsenter", "-n", "-t", pid.decode()])
                     for n, pid in enumerate(pids)]

    def count(self):
        with open(self.file, "rb") as f:
            return Count(*struct.unpack("6Q", f.read(48)))

    def close(self):
        """The namespaces end with the last process in them."""
        self.proc.stdin.close()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
