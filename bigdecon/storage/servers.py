"""Web servers and object stores: connect, ask again after a passing failure, explain a lasting one.

Networks drop connections and busy servers answer 500 or 503: over a week that happens often. A request is
therefore made several times, with pauses that double and are drawn at random, so that many workers do not
all come back at once. This is the only place where requests are repeated; the libraries below make one each.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

__all__ = [
    "CONNECTIONS",
    "OBJECT_STORES",
    "PATIENT",
    "QUICK",
    "ServerFailure",
    "ask",
    "ask_async",
    "connection",
    "filesystem",
    "is_denied",
    "is_url",
]

T = TypeVar("T")

QUICK = 4
"""Attempts where a person waits: opening an image, the first look at an output. About 2 s of pauses."""
PATIENT = 9
"""Attempts for voxels and records, as a failure costs a block. About 40 s of pauses."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 20.0
CONNECT_TIMEOUT_S = 10
SILENCE_TIMEOUT_S = 60
"""How long a server may send nothing."""
CONNECTIONS = 64
"""To one server, of a process."""
AGAIN = (408, 409, 421, 425, 429)
"""Answers below 500 that pass: time-outs, conflicts, too many requests."""
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
SECRETS = ("key", "username", "token", "profile", "session")
"""Names under which fsspec's settings hold credentials, or say where they are."""
NETWORK = frozenset(
    {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs", "urllib3"}
)
"""Libraries whose errors tell of servers and the network."""
UNREACHABLE = ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError")


class ServerFailure(OSError):
    """A server failed until patience ended; `strerror` is a part of a sentence."""

    def __str__(self) -> str:
        """Leave the error number out."""
        return self.strerror or super().__str__()


def is_url(location: str) -> bool:
    """Whether a location has a scheme such as s3:// or https://."""
    scheme = urlsplit(location).scheme
    return "://" in location and len(scheme) > 1


OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Schemes of stores that are read and written; what is not S3 needs its package of fsspec."""
WEB = ("http", "https")
"""Schemes of servers that are read only."""


# --- connections ---------------------------------------------------------------------------------


def connection(url: str) -> Any:
    """Give this process's fsspec file system for a URL.

    Processes never share one, forked ones neither. New settings or credentials in the environment make a
    new one.

    Raises
    ------
    OSError
        if nothing is installed that can talk to such URLs
    """
    return _connection(urlsplit(url).scheme, os.getpid(), _surroundings())


def _surroundings() -> tuple[tuple[str, str], ...]:
    return tuple((k, v) for k, v in os.environ.items() if k.startswith(("AWS_", "FSSPEC_")))


@lru_cache(maxsize=4)
def _connection(protocol: str, pid: int, surroundings: tuple[tuple[str, str], ...]) -> Any:
    return filesystem(f"{protocol}://")


def filesystem(url: str) -> Any:
    """Connect anew to the server behind a URL, without credentials where there are none.

    Raises
    ------
    OSError
        if nothing is installed that can talk to such URLs
    """
    import fsspec

    protocol = urlsplit(url).scheme
    if protocol not in (*OBJECT_STORES, *WEB):
        raise OSError(errno.EPROTONOSUPPORT, f"nothing here reads {protocol}:// addresses")
    makers = {"s3": _s3, "s3a": _s3, "http": _http, "https": _http}
    try:
        if protocol in makers:
            return makers[protocol]()
        return fsspec.filesystem(protocol, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise OSError(
            errno.EPROTONOSUPPORT, f"nothing here reads {protocol}:// addresses ({error})"
        ) from error


def _s3() -> Any:
    """Connect to S3 with one attempt a request and one request a read; settings of fsspec go first."""
    import fsspec

    given = fsspec.config.conf.get("s3", {})
    config = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": SILENCE_TIMEOUT_S,
        "max_pool_connections": CONNECTIONS,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
    }
    fs = fsspec.filesystem(
        "s3",
        anon=given.get("anon", not (any(map(given.get, SECRETS)) or has_s3_credentials())),
        use_listings_cache=False,
        config_kwargs={**config, **given.get("config_kwargs", {})},
        max_concurrency=1,
        skip_instance_cache=True,
    )
    fs.retries = 1
    return fs


def _http() -> Any:
    """Connect to web servers: no limit on the whole of a download, but on silence."""
    import aiohttp
    import fsspec

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S)
    given = fsspec.config.conf.get("http", {}).get("client_kwargs", {})
    return fsspec.filesystem("http", client_kwargs={"timeout": timeout, **given}, skip_instance_cache=True)


def has_s3_credentials() -> bool:
    """Whether boto finds credentials: in the environment, its files, or given to this machine."""
    session = importlib.import_module("botocore.session")
    return session.get_session().get_credentials() is not None


# --- attempts ------------------------------------------------------------------------------------


def ask(url: str, request: Callable[[Any], T], *, attempts: int = PATIENT) -> T:
    """Make a request to the server behind a URL until it succeeds, or will not.

    Parameters
    ----------
    url : of the object or its server
    request : gets the fsspec file system; must do the same when it is repeated
    attempts : how often it is made at most

    Raises
    ------
    FileNotFoundError, FileExistsError
        at once, as the file system gives them
    PermissionError
        if the server denies it
    ServerFailure
        if it still fails after all attempts, or cannot succeed
    Exception
        at once and as it is, what neither server nor network causes: a mistake, or no memory
    """
    series = _Attempts(url, attempts)
    while True:
        fs = connection(url)
        try:
            return request(fs)
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            pause = series.pause_after(error)
        time.sleep(pause)


async def ask_async(url: str, request: Callable[[Any], Awaitable[T]], *, attempts: int = PATIENT) -> T:
    """Do as `ask`, on the event loop."""
    series = _Attempts(url, attempts)
    while True:
        fs = connection(url)
        try:
            return await request(fs)
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            pause = series.pause_after(error)
        await asyncio.sleep(pause)


class _Attempts:
    """Counts the attempts of one request."""

    def __init__(self, url: str, most: int) -> None:
        self._url = url
        self._left = most
        self._made = 0
        self._renewed = False

    def pause_after(self, error: Exception) -> float:
        """Give the pause before the next attempt, in seconds; raises where there is none."""
        if not _is_of_network(error):
            raise error
        self._left -= 1
        self._made += 1
        if _code(error) in EXPIRED and not self._renewed:
            self._renewed = True  # the files with credentials may have been renewed meanwhile
            _connection.cache_clear()
            return 0.0
        if _is_final(error) or self._left <= 0:
            self._give_up(error)
        longest = min(FIRST_PAUSE_S * 2.0 ** (self._made - 1), LONGEST_PAUSE_S)
        return random.uniform(0.5, 1.0) * longest

    def _give_up(self, error: Exception) -> NoReturn:
        cause = _describe(error)
        if is_denied(error):
            anonymous = "" if not _asks_nameless(self._url) else ", and no credentials were found"
            raise PermissionError(errno.EACCES, f"access is denied{anonymous}: {cause}") from error
        if self._made > 1:
            cause = f"{cause}, at the last of {self._made} attempts"
        raise ServerFailure(errno.EIO, cause) from error


def _asks_nameless(url: str) -> bool:
    return urlsplit(url).scheme in ("s3", "s3a") and bool(connection(url).anon)


def _answer(error: BaseException) -> dict[str, Any]:
    """Give what an S3 server said, found in the error or in its cause."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return answer
    return {}


def _code(error: BaseException) -> str:
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _status(error: BaseException) -> int | None:
    """Give the HTTP status, where a server answered."""
    status = getattr(error, "status", None)
    if status is None:
        status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def is_denied(error: BaseException) -> bool:
    """Whether a server refused for good. Some say so of files that do not exist (S3 without listing)."""
    return isinstance(error, PermissionError) or _status(error) in (401, 403)


def _is_of_network(error: BaseException) -> bool:
    """Whether a server or the network may have caused it, or an address or setting that was given."""
    if isinstance(error, OSError | EOFError | ValueError | TypeError | NotImplementedError):
        return True
    return any(kind.__module__.partition(".")[0] in NETWORK for kind in type(error).__mro__)


def _is_final(error: BaseException) -> bool:
    """Whether asking again is in vain."""
    hopeless = isinstance(error, ValueError | TypeError | NotImplementedError)
    if is_denied(error) or hopeless or type(error).__name__ == "ParamValidationError":
        return True
    if _code(error) in ("RequestTimeout", "IncompleteBody", "XAmzContentSHA256Mismatch", "BadDigest"):
        return False
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in AGAIN


def _describe(error: BaseException) -> str:
    """Say in a few words what happened."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
    status = _status(error)
    if status is not None:
        said = getattr(error, "message", None) or text
        return f"the server answered {status} ({said})" if said else f"the server answered {status}"
    if type(error).__name__ in UNREACHABLE:
        return f"no server answers: {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
