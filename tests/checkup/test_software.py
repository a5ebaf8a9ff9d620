"""Versions that suit one another or not."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

from bigdecon.checkup.software import check_versions

INSTALLED = {"bigdecon": "0.1.0", "zarr": "2.18", "torch": "2.13.0+cpu"}


def installed(name):
    try:
        return INSTALLED[name]
    except KeyError:
        raise PackageNotFoundError(name) from None


def test_what_is_installed_here_fits():
    (finding,) = check_versions()
    assert finding.severity == "good"
    assert "Python 3." in finding.sentence


def test_what_is_missing_or_does_not_fit_is_named_with_the_command():
    needs = ["torch>=2.4", "zarr>=3.0.8", "click>=8.1", 'other; extra == "dev"', 'old; python_version < "3"']
    *problems, versions = check_versions(needs, installed)
    assert [(p.severity, p.sentence) for p in problems] == [
        ("warning", "zarr is 2.18; zarr>=3.0.8 is needed."),
        ("warning", "click is not installed; click>=8.1 is needed."),
    ]
    assert problems[0].remedy.endswith('pip install "zarr>=3.0.8"')
    assert (versions.name, versions.severity) == ("versions", "note")
