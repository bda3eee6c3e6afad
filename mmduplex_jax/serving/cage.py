"""A cage for a process that decodes strangers' bytes: what is left of the system to whoever takes it over.

Everywhere the kernel gives it no new descriptor, no file that grows and no core dump; no process either, but to root
and to who may begin threads. On Linux its memory is bounded, and a filter of system calls (seccomp) lets it compute,
and read and write what it has open; all else fails with EPERM. It opens no socket and no file, starts no program,
signals and looks into no process, and makes no memory code.

The filter is written here, since it is thirty calls: libseccomp would be one more library that has to be there, and its
Python binding has had no release since 2021.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple


class _Call(NamedTuple):
    """A system call that is let through, by its number on x86_64 and on aarch64 (the kernel's unistd.h).

    Attributes:
      argument: the number of one on whose `bits` it depends; None where all is let through.
      wanted: it passes where one of them is set; otherwise where none is.
    """

    x86_64: int
    aarch64: int
    argument: int | None = None
    bits: int = 0
    wanted: bool = False


_PROT_EXEC, _CLONE_THREAD = 0x4, 0x10000
# Of addresses: threads reserve a stack and a heap each, of which they use little.
_THREADS_BYTES = 16 << 30
# Of what is bounded only: connections of a playlist.
_FILES_MAX = 256
# What computing needs: memory, time, locks, timers and their signals; descriptors that are open; an end.
_COMPUTING = {
    "brk": _Call(12, 214),
    "clock_gettime": _Call(228, 113),
    "clock_nanosleep": _Call(230, 115),
    "close": _Call(3, 57),
    "exit": _Call(60, 93),
    "exit_group": _Call(231, 94),
    "fstat": _Call(5, 80),
    "futex": _Call(202, 98),
    "getpid": _Call(39, 172),
    "getrandom": _Call(318, 278),
    "gettid": _Call(186, 178),
    "gettimeofday": _Call(96, 169),
    "lseek": _Call(8, 62),
    "madvise": _Call(28, 233),
    "mmap": _Call(9, 222, 2, _PROT_EXEC),
    "mprotect": _Call(10, 226, 2, _PROT_EXEC),
    "mremap": _Call(25, 216),
    "munmap": _Call(11, 215),
    "read": _Call(0, 63),
    "recvfrom": _Call(45, 207),
    "restart_syscall": _Call(219, 128),
    "rt_sigaction": _Call(13, 134),
    "rt_sigprocmask": _Call(14, 135),
    "rt_sigreturn": _Call(15, 139),
    "sched_getaffinity": _Call(204, 123),
    "sched_yield": _Call(24, 124),
    "sendto": _Call(44, 206),
    "setitimer": _Call(38, 103),
    "write": _Call(1, 64),
}
_THREADS = {
    "clone": _Call(56, 220, 0, _CLONE_THREAD, wanted=True),
    "rseq": _Call(334, 293),
    "set_robust_list": _Call(273, 99),
}
# Its arguments lie where no filter can read them; libraries that are told that there is none take `clone`.
_CLONE3 = 435
_MACHINES = ("x86_64", "aarch64")
# linux/audit.h: both of 64 bits, lowest byte first.
_AUDIT_ARCH = (0xC000003E, 0xC00000B7)

# linux/prctl.h, linux/seccomp.h
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
# linux/bpf_common.h: load a word; is it equal, is any bit set; return.
_LOAD, _IS_EQUAL, _ANY_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
# Where they lie in linux/seccomp.h's seccomp_data: the call's number, the machine, six arguments of 8 bytes.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

_Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    """linux/filter.h's sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def why_no_filter() -> str | None:
    """Why system calls cannot be filtered here; None where they can."""
    if sys.platform != "linux":
        return f"{platform.system()} has no seccomp"
    if platform.machine() not in _MACHINES or sys.maxsize < 2**32:
        return f"there is no filter for {platform.machine()}, only for {' and '.join(_MACHINES)}"
    # A kernel that takes filters looks for this one at address 0, and finds nothing there.
    if (number := _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, 0)) != errno.EFAULT:
        return f"the kernel, or whatever runs this container, takes no filter ({os.strerror(number)})"
    return None


def bound(memory_bytes: int) -> None:
    """Bounds what this process may use, for the rest of its life: few descriptors, no core dump, no file that grows.

    Args:
      memory_bytes: what it may allocate over what it has (Linux; elsewhere nothing bounds that).
    """
    if sys.platform == "linux":
        allocated = _pages()[5] * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (allocated + memory_bytes,) * 2)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = _FILES_MAX if now == resource.RLIM_INFINITY else min(_FILES_MAX, now)
    for name, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, files)):
        resource.setrlimit(name, (most, most))


def lock_in(memory_bytes: int, *, threads: bool = False) -> None:
    """Locks this process in, for the rest of its life: `bound`, no new descriptor, and the filter where there is one.

    It must have one thread yet.

    Args:
      memory_bytes: as of `bound`.
      threads: it may begin some.

    Raises:
      OSError: the filter was not taken, though `why_no_filter` knows of no reason.
    """
    if sys.platform == "linux":
        # It counts what RLIMIT_DATA does not: memory that could be shared.
        reserved = _pages()[0] * resource.getpagesize() + (_THREADS_BYTES if threads else 0)
        resource.setrlimit(resource.RLIMIT_AS, (reserved + memory_bytes,) * 2)
    bound(memory_bytes)
    # What is open stays open. Without a new descriptor no file or socket is opened, filter or not.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if not threads:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if why_no_filter() is None:
        _set_filter(list(_filter(_MACHINES.index(platform.machine()), threads)))


def _pages() -> list[int]:
    """What /proc/self/statm says: first all that is reserved, sixth what RLIMIT_DATA counts."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return [int(number) for number in statm.read().split()]


def _filter(machine: int, threads: bool) -> Iterator[_Instruction]:
    """The filter as instructions: code, how many to leave out where true and where false, operand."""
    refuse, allow = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    yield _LOAD, 0, 0, _ARCH
    yield _IS_EQUAL, 1, 0, _AUDIT_ARCH[machine]
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _LOAD, 0, 0, _NUMBER
    for call in (_COMPUTING | (_THREADS if threads else {})).values():
        number = (call.x86_64, call.aarch64)[machine]
        if call.argument is None:
            yield _IS_EQUAL, 0, 1, number
            yield allow
        else:
            yield _IS_EQUAL, 0, 4, number
            yield _LOAD, 0, 0, _ARGUMENTS + 8 * call.argument
            yield _ANY_SET, 0, 1, call.bits
            yield allow if call.wanted else refuse
            yield refuse if call.wanted else allow
    yield _IS_EQUAL, 0, 1, _CLONE3
    yield _RETURN, 0, 0, _ERRNO | errno.ENOSYS
    yield refuse


def _set_filter(instructions: list[_Instruction]) -> None:
    packed = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _Program(len(instructions), ctypes.addressof(buffer))
    if (number := _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))) != 0:
        raise OSError(number, f"the filter of system calls was not taken: {os.strerror(number)}")


def _prctl(option: int, first: int, second: int) -> int:
    """Calls prctl(2); the error's number, 0 for none."""
    zero = ctypes.c_ulong(0)
    called = ctypes.CDLL(None, use_errno=True).prctl
    failed = called(ctypes.c_int(option), ctypes.c_ulong(first), ctypes.c_ulong(second), zero, zero) == -1
    return ctypes.get_errno() if failed else 0
