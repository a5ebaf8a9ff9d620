"""Everything that can go wrong, as one tree.

BigdeconError
├── InputError                 exit code 2: found before anything is written
│   ├── VolumeError            the image: missing, unreadable, NaN, no such channel
│   │   └── ConstantImageError every voxel looked at has the same value
│   ├── PSFError               the PSF: not an image, zero, wrong dimensions, wrong voxel size
│   ├── OptionError            a setting that cannot work
│   ├── OutputError            where the result should go: exists, not writable, inside the input
│   ├── ModelError             a trained model that is unreadable or belongs to another PSF
│   └── ClusterError           no scheduler answers at the address given
└── RunError                   exit code 3: found while running; what is finished is kept
    ├── ReadError              a chunk that cannot be read or decoded
    ├── NonFiniteError         NaN or infinity in a chunk that had not been looked at before
    ├── WriteError             a full disk, a lost file system
    ├── TrainingError          a loss that became NaN
    ├── DeviceMemoryError      a GPU, or a machine, too small for the smallest part of a block
    ├── DeviceLostError        a GPU that does not answer this process any more
    └── SchedulerLostError     the cluster went away

Every message is one sentence for a person: what was wrong, the value, what would be right.
All errors take exactly one argument, the message, so that they survive the way between processes. Passwords
and signatures in the addresses that it names are left out.
"""

from bigdecon.addresses import shown_url

__all__ = [
    "BigdeconError",
    "ClusterError",
    "ConstantImageError",
    "DeviceLostError",
    "DeviceMemoryError",
    "InputError",
    "ModelError",
    "NonFiniteError",
    "OptionError",
    "OutputError",
    "PSFError",
    "ReadError",
    "RunError",
    "SchedulerLostError",
    "TrainingError",
    "VolumeError",
    "WriteError",
]


class BigdeconError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shown_url(message))


class InputError(BigdeconError):
    """Bad input, found before anything was written."""

    exit_code = 2


class VolumeError(InputError):
    """The input image cannot be used."""


class ConstantImageError(VolumeError):
    """Every voxel that was looked at has the same value: empty, or not written yet."""


class PSFError(InputError):
    """The point spread function cannot be used."""


class OptionError(InputError):
    """A setting, or a combination of settings, cannot work."""


class OutputError(InputError):
    """The result cannot be written where it should go."""


class ModelError(InputError):
    """A trained model cannot be read, or was trained for something else."""


class ClusterError(InputError):
    """No Dask scheduler answers at the address given."""


class RunError(BigdeconError):
    """A failure while running: finished work is kept, the same command continues."""

    exit_code = 3


class ReadError(RunError):
    """A part of the input cannot be read or decoded."""


class NonFiniteError(RunError):
    """The input holds NaN or infinity where nobody had looked before."""


class WriteError(RunError):
    """A part of the output cannot be written."""


class TrainingError(RunError):
    """Training broke down."""


class DeviceMemoryError(RunError):
    """Memory does not suffice for the smallest piece of work."""


class DeviceLostError(RunError):
    """The GPU does not answer this process any more; a new process can use it."""


class SchedulerLostError(RunError):
    """The Dask scheduler or all of its workers went away."""
