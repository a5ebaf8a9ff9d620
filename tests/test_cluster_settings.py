"""SLURM's forms of times, sizes and numbers."""

from __future__ import annotations

import pytest

from bigdecon.cluster_settings import SlurmSettings, parse_jobs, parse_memory, parse_walltime
from bigdecon.errors import OptionError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30 * 60),
        ("1:30", 90),
        ("4:00:00", 4 * 3600),
        ("36:00:00", 36 * 3600),
        ("2-0", 2 * 86400),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 30 * 60),
        ("0-0:1:5", 65),
        (" 90 ", 90 * 60),
    ],
)
def test_walltimes_as_in_the_manual_of_sbatch(text, seconds):
    assert parse_walltime(text) == seconds
    assert SlurmSettings(walltime=text).walltime == text


@pytest.mark.parametrize(
    "text", ["", "0", "0:00:00", "4h", "1:2:3:4", "1-", "-1", "1-2-3", "UNLIMITED", "1.5"]
)
def test_other_walltimes_are_refused_in_a_sentence(text):
    with pytest.raises(OptionError, match=r"walltime .* is not understood; give minutes"):
        SlurmSettings(walltime=text)


@pytest.mark.parametrize(
    ("text", "size"), [("900", 900 * 2**20), ("64G", 64 * 2**30), ("1tb", 2**40), ("5K", 5 * 2**10)]
)
def test_memory_in_the_units_of_slurm(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "lots", "4GiB", "-1G", "1.5G"])
def test_other_memory_is_refused(text):
    with pytest.raises(OptionError, match="not in SLURM's units"):
        SlurmSettings(mem=text)


def test_numbers_of_jobs():
    assert parse_jobs("2:10") == (2, 10)
    assert parse_jobs("4") == (4, 4)
    for text in ("", "a", "2-10", "1:2:3", "-1", "2:"):
        with pytest.raises(OptionError, match="give MIN:MAX"):
            parse_jobs(text)
    for jobs in ((0, 1), (3, 2)):
        with pytest.raises(OptionError, match="give MIN:MAX"):
            SlurmSettings(jobs=jobs)


@pytest.mark.parametrize("field", ["partition", "directives", "prologue"])
def test_a_setting_is_one_line(field):
    text = "debug\n#SBATCH --exclusive"
    value = text if field == "partition" else ("-a", f"-{text}")
    with pytest.raises(OptionError, match="single line"):
        SlurmSettings(**{field: value})


def test_a_directive_is_an_option():
    with pytest.raises(OptionError, match="give an option of sbatch"):
        SlurmSettings(directives=("--exclusive", "constraint"))
