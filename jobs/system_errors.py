"""Errors of the operating system that no module has foreseen, in words that say what to do."""

from __future__ import annotations

import errno

__all__ = ["told_plainly"]

_REMEDIES = {
    errno.ENOSPC: "free space there, or name another workspace",
    errno.EDQUOT: "free space there, or name another workspace",
    errno.EACCES: "change the permissions, or name another place",
    errno.EPERM: "change the permissions, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: "raise the limit of open files: ulimit -n 65536",
    errno.ENFILE: "close other programs, or raise the system's limit of open files",
    errno.ENOTDIR: "a folder is expected where a file stands; correct the path",
    errno.EISDIR: "a file is expected where a folder stands; correct the path",
    errno.ENOENT: "correct the path",
    errno.ENAMETOOLONG: "name a place with a shorter path",
    errno.EADDRINUSE: "name another port, or end the program that holds it",
}
_OTHERWISE = "see the log, with --debug"


def told_plainly(error: OSError) -> str:
    """What happened to which file, and what to do about it.

    >>> told_plainly(OSError(errno.ENOSPC, "No space left on device", "/data/runs"))
    '/data/runs: No space left on device; free space there, or name another workspace'
    """
    place = f"{error.filename}: " if error.filename else ""
    said = error.strerror or str(error) or type(error).__name__
    return f"{place}{said}; {_REMEDIES.get(error.errno or 0, _OTHERWISE)}"
