"""Trials that are finished, on disk: a choice of settings that was interrupted goes on from them.

    FOLDER/<digest>.npz     counts: numbers of iterations; errors: for each the squared error at hidden voxels

The name is a digest of all that a trial depends on: the voxels looked at and those hidden, the PSF, what is
to be chosen, the setting, and the version. What is found under it is therefore what would be computed again,
and a file that cannot be read or does not fit counts as none. A file is whole or absent (`storage.places`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.held_out import Sample
from bigdecon.deconvolution.trials import Tuning
from bigdecon.storage import places
from bigdecon.storage.places import TEMPORARY, Place

__all__ = ["KeptTrials", "TrialFolder", "is_trial"]

FORMAT = 1
"""Grows when the files, or the search that their content depends on, change."""
FRAME_BYTES = 2**14
"""Of a file, beside its numbers, at most."""
_NAME = re.compile(rf"({re.escape(TEMPORARY)})?[0-9a-f]{{32}}\.npz(?(1)-[0-9a-f]{{32}})")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialFolder:
    """Where finished trials are kept.

    Attributes
    ----------
    place : the folder; made with the first trial
    writes : whether trials are kept there, or only looked up
    """

    place: Place
    writes: bool = True


def is_trial(name: str) -> bool:
    """Whether a file of this name is a trial, or one that was not finished."""
    return _NAME.fullmatch(name) is not None


class KeptTrials:
    """The trials of one search.

    Parameters
    ----------
    folder : where they are; None keeps nothing
    tuning, samples, psf : of the search
    """

    def __init__(
        self,
        folder: TrialFolder | None,
        tuning: Tuning,
        samples: Sequence[Sample],
        psf: NDArray[np.floating],
    ) -> None:
        self._folder, self._failed = folder, False
        self._hidden = sum(int(sample.hidden.sum()) for sample in samples)
        self._search = _digest_of_search(tuning, samples, psf) if folder else ""

    def find(self, settings: ClassicalSettings, counts: Sequence[int]) -> NDArray[np.float64] | None:
        """Look a trial up.

        Returns
        -------
        squared errors, (numbers of iterations reached, hidden voxels); None if there is none
        """
        if self._folder is None:
            return None
        most = 8 * len(counts) * (self._hidden + 1)
        try:
            data = places.read(self._place(self._folder, settings, counts), limit=most + FRAME_BYTES)
            with ZipFile(BytesIO(data)) as archive:
                reached = _numbers(archive, "counts", np.int64, (len(counts),))
                errors = _numbers(archive, "errors", np.float64, (len(reached), self._hidden))
        except Exception:  # whatever a damaged archive brings about: the trial is done again
            return None
        fits = list(reached) == list(counts[: len(reached)]) and errors.shape == (len(reached), self._hidden)
        return errors if fits else None

    def keep(
        self, settings: ClassicalSettings, counts: Sequence[int], errors: Sequence[NDArray[np.float64]]
    ) -> None:
        """Keep a finished trial; where that fails, it is told once, and the search goes on."""
        if self._folder is None or not self._folder.writes or self._failed:
            return
        data = BytesIO()
        np.savez(data, counts=np.array(counts[: len(errors)], np.int64), errors=np.stack(errors))
        try:
            places.make_folder(self._folder.place)
            places.write(self._place(self._folder, settings, counts), data.getvalue())
        except OSError as error:
            self._failed = True
            _log.warning(
                "settings that have been tried cannot be kept in %s (%s); if this is interrupted now, they "
                "are tried again.",
                self._folder.place,
                error.strerror or error,
            )

    def _place(self, folder: TrialFolder, settings: ClassicalSettings, counts: Sequence[int]) -> Place:
        of_setting = json.dumps([self._search, asdict(settings), list(counts)])
        return folder.place / f"{hashlib.sha256(of_setting.encode()).hexdigest()[:32]}.npz"


def _numbers(archive: ZipFile, name: str, dtype: type[Any], most: tuple[int, ...]) -> NDArray[Any]:
    """Read an array whose type and number of axes are known; before memory is taken for it, its extent."""
    with archive.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("the array is written in another way")
        shape, by_columns, found = np.lib.format.read_array_header_1_0(file)
        few = len(shape) == len(most) and all(1 <= n <= m for n, m in zip(shape, most, strict=True))
        if by_columns or found != dtype or not few:
            raise ValueError("the array is not one of a trial")
        n_bytes = math.prod(shape) * found.itemsize
        data = file.read(n_bytes + 1)  # beyond the end, where the checksum is compared
    if len(data) != n_bytes:
        raise EOFError("the array has another length than it says")
    return np.frombuffer(data, found).reshape(shape)


def _digest_of_search(tuning: Tuning, samples: Sequence[Sample], psf: NDArray[np.floating]) -> str:
    """Give a digest of all that the errors of a search depend on, but for the setting tried."""
    asked = [FORMAT, _version(), tuning.method, asdict(tuning.settings), list(tuning.wanted)]
    digest = hashlib.sha256(json.dumps(asked).encode())
    arrays = [array for sample in samples for array in (sample.image, sample.hidden)]
    for array in (np.asarray(psf, np.float32), *arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _version() -> str:
    try:
        return version("bigdecon")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return ""
