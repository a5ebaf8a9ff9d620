"""What a failure to write means for a run, in one sentence."""

from __future__ import annotations

import errno

from bigdecon.errors import WriteError

__all__ = ["write_error"]


def write_error(place: object, error: OSError) -> WriteError:
    """Turn a failure of the file system or the server to write a place into one sentence."""
    cause = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = f"the disk is full ({cause})"
    return WriteError(
        f"{place} cannot be written: {cause}; what is finished is kept, "
        "and once this is put right the same command continues."
    )
