"""`bigdecon doctor` as a whole: on this machine, and where things are wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from bigdecon_cli import main as entry

from bigdecon.checkup import examination
from bigdecon.checkup.checks import Check
from bigdecon.checkup.self_test import check_richardson_lucy
from bigdecon.diagnosis.findings import Finding

NAMES = ["packages", "gpus", "memory", "disk", "slurm", "workers", "dashboard",
         "self-test-richardson-lucy", "self-test-training"]  # fmt: skip


@pytest.fixture
def doctor(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bigdecon", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.mark.slow
def test_this_machine_is_well_and_nothing_is_left(tmp_path):
    scratch, results = tmp_path / "tmp", tmp_path / "results"
    scratch.mkdir()
    results.mkdir()
    command = [sys.executable, "-m", "bigdecon_cli", "doctor", "--json", "--output", str(results)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=results,
        env=os.environ | {"TMPDIR": str(scratch)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert [check["name"] for check in told["checks"]] == NAMES
    assert {check["verdict"] for check in told["checks"]} <= {"good", "note"}
    assert told["verdict"] == "good"
    assert list(scratch.iterdir()) == list(results.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_stopped_in_a_run_it_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-u", "-m", "bigdecon_cli", "doctor"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as doctor:
        for line in doctor.stdout:
            if "dashboard" in line:  # the next is a run
                break
        doctor.send_signal(number)
        _, err = doctor.communicate(timeout=120)
    assert (doctor.returncode, err) == (130, "\nStopped.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_problem_is_told_with_its_remedy_and_code_3(doctor, monkeypatch):
    found = [
        Finding("gpus", "note", "There is none."),
        Finding("disk", "warning", "The disk is full.", "Free some space."),
        Finding("memory", "good", "There is some."),
    ]
    monkeypatch.setattr(examination, "examine", lambda folder, begin: iter(found))
    code, out, err = doctor()
    assert (code, err) == (3, "")
    assert out.splitlines() == [
        "note     There is none.",
        "problem  The disk is full.",
        "         Free some space.",
        "good     There is some.",
        "",
        "1 problem: see above.",
    ]
    code, out, _ = doctor("--json")
    assert code == 3
    assert [check["verdict"] for check in json.loads(out)["checks"]] == ["note", "problem", "good"]
    found.pop(1)
    code, out, _ = doctor()
    assert code == 0
    assert out.endswith("\nbigdecon works here.\n")


def test_a_check_that_hangs_does_not_keep_the_program(tmp_path):
    code = (
        "import sys, threading\nfrom bigdecon.checkup import examination\n"
        "from bigdecon.checkup.checks import Check\n"
        "hang = Check('disk', 'the disk', lambda: threading.Event().wait() or [], 0.1, 'Wait.')\n"
        "examination._surroundings = lambda folder: [hang]\n"
        "examination._Stage.checks = lambda self: []\n"
        "from bigdecon_cli.main import main\nsys.argv = ['bigdecon', 'doctor']\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 3
    assert "The disk gave no answer" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_workers_the_rest_is_told(monkeypatch, tmp_path):
    def fail(*args):
        raise OSError("no processes left")

    monkeypatch.setattr(examination, "Workforce", fail)
    monkeypatch.setattr(examination, "_surroundings", lambda folder: [Check("disk", "d", list, 9)])
    found = list(examination.examine(tmp_path))
    assert [finding.severity for finding in found] == ["warning"] * 4
    assert "no processes left" in found[0].sentence
    assert all("there are no workers" in finding.sentence for finding in found[1:])


@pytest.mark.slow
def test_a_result_that_is_wrong_is_noticed(cluster, tmp_path, monkeypatch):
    from bigdecon.checkup import self_test

    right = self_test.classical_method
    monkeypatch.setattr(self_test, "classical_method", lambda *args: lambda image: right(*args)(image) * 1.1)
    (finding,) = check_richardson_lucy(tmp_path, cluster, "cpu")
    assert finding.severity == "distrust"
    assert "differs from the same method in this process" in finding.sentence
