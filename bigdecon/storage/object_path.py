"""The address of an object, or of a prefix, in an object store: what `Path` is for local files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["ObjectPath"]


@dataclass(frozen=True)
class ObjectPath:
    """A URL such as s3://bucket/name.ome.zarr, taken apart and put together as a `Path` is.

    It is an address only: small, hashable, and without a connection, so that it travels between processes.
    There is deliberately no `__fspath__`: `open` and `Path` would take it for a local file.

    Attributes
    ----------
    url : without a slash at its end
    """

    url: str

    def __str__(self) -> str:
        """Give the URL."""
        return self.url

    def __truediv__(self, name: str) -> ObjectPath:
        """Go into a folder."""
        return ObjectPath(f"{self.url}/{name}")

    @property
    def key(self) -> str:
        """Bucket and name: all but the scheme, whose slashes are no folders."""
        return self.url.partition("://")[2]

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """Last part of the address."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """Last part, without its ending."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """Ending of the last part, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder that it lies in."""
        return ObjectPath(self.url.rpartition("/")[0])

    def absolute(self) -> ObjectPath:
        """Give itself: an address starts nowhere else."""
        return self

    def with_suffix(self, suffix: str) -> ObjectPath:
        """Replace the ending."""
        return self.parent / PurePosixPath(self.key).with_suffix(suffix).name

    def is_relative_to(self, other: ObjectPath) -> bool:
        """Whether it is the same address, or one inside the other's folder."""
        return f"{self.url}/".startswith(f"{other.url}/")
