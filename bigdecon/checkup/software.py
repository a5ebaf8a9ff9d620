"""Which versions are installed, and whether they suit one another."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata

from bigdecon.diagnosis.findings import Finding

__all__ = ["check_versions"]

SHOWN = ("bigdecon", "torch", "dask", "distributed", "zarr", "numpy")


def check_versions(
    required: Iterable[str] | None = None, installed: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """Name the versions, and the packages that are missing or too old or new.

    Parameters
    ----------
    required : requirements as in a package's metadata; those of bigdecon by default
    installed : gives the version of a package
    """
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version}" for name in SHOWN if (version := _version(name, installed))]
    needed = metadata.requires("bigdecon") if required is None else required
    unfit = list(_unfit(needed or (), installed))
    for sentence, requirement in unfit:
        yield Finding("packages", "warning", sentence, f'Install it: python -m pip install "{requirement}"')
    if not unfit:
        yield Finding("packages", "good", f"{', '.join(versions)}.")
    else:
        yield Finding("versions", "note", f"{', '.join(versions)}.")


def _version(name: str, installed: Callable[[str], str]) -> str:
    try:
        return installed(name)
    except metadata.PackageNotFoundError:
        return ""


def _unfit(required: Iterable[str], installed: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    from packaging.requirements import Requirement

    for text in required:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        version = _version(requirement.name, installed)
        if not version:
            yield f"{requirement.name} is not installed; {wanted} is needed.", wanted
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}; {wanted} is needed.", wanted
