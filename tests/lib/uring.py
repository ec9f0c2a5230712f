"""The kernel's permission to carry FUSE requests by io_uring, which all mounts share.

    with uring.parameter(True) as can:
        s.start()           # can: whether this kernel has it at all

It is looked at while a mount begins and not later, so it is set around that only. Whoever sets it
keeps others that set it away meanwhile; to mounts that do not ask for rings it means nothing.
"""

import contextlib
import ctypes
import fcntl
import struct

PARAMETER = "/sys/module/fuse/parameters/enable_uring"


@contextlib.contextmanager
def parameter(on):
    try:
        f = open(PARAMETER, "r+")
    except OSError:
        yield False
        return
    with f:
        fcntl.flock(f, fcntl.LOCK_EX)
        before = f.read().strip()
        try:
            _set("Y" if on else "N")
            yield on
        finally:
            _set(before)


def _set(value):
    with open(PARAMETER, "w") as f:
        f.write(value)


def forbid():
    """io_uring_setup(2) fails with EPERM in this process and those it starts, as in many a
    container."""
    libc = ctypes.CDLL(None, use_errno=True)
    # number of the call; 425 everywhere but on alpha: EPERM; else allowed
    program = b"".join(struct.pack("HBBI", *ins) for ins in (
        (0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001),
        (0x06, 0, 0, 0x7FFF0000)))
    text = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    one = Program(4, ctypes.addressof(text))
    if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, ctypes.byref(one), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
