"""Shell completion, in a real bash, and what it costs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bigdecon_cli.completion import SHELLS
from bigdecon_cli.main import COMMANDS, bigdecon
from click.testing import CliRunner

HEAVY = ("torch", "dask", "distributed", "zarr", "numpy", "tifffile")


@pytest.fixture
def complete(tmp_path):
    """Give what bash offers for the last word of a command line."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    program = tmp_path / "bin" / "bigdecon"
    program.parent.mkdir()
    check = (
        f"#!{sys.executable}\nimport sys\nfrom bigdecon_cli.main import main\ntry:\n    main()\nfinally:\n"
        f"    assert not {set(HEAVY)} & set(sys.modules), 'slow imports'\n"
    )
    program.write_text(check)
    program.chmod(0o755)
    (tmp_path / "volume.tif").touch()
    (tmp_path / "vol dir").mkdir()

    def ask(*words: str) -> list[str]:
        script = (
            f'PATH={shlex.quote(str(program.parent))}:$PATH; eval "$(bigdecon completion bash)"\n'
            f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
            'compopt() { echo "files"; }\n'  # readline lists the files then
            '_bigdecon_completion bigdecon; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_bash_completes_commands_options_choices_and_files(complete):
    assert complete("bigdecon", "") == list(COMMANDS)
    assert complete("bigdecon", "ver") == ["verify"]
    assert complete("bigdecon", "run", "a.tif", "--meth") == ["--method"]
    assert complete("bigdecon", "run", "--method", "w") == ["wiener"]
    assert complete("bigdecon", "run", "--engine", "") == ["auto", "map-overlap", "direct"]
    assert complete("bigdecon", "run", "vol") == ["files"]
    assert complete("bigdecon", "run", "--psf", "") == ["files"]
    assert complete("bigdecon", "run", "--config", "r") == ["files"]
    assert complete("bigdecon", "completion", "") == list(SHELLS)
    assert complete("bigdecon", "psf", "m") == ["make"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_its_script(shell, tmp_path):
    done = CliRunner().invoke(bigdecon, ["completion", shell])
    assert done.exit_code == 0
    assert f"_BIGDECON_COMPLETE={shell}_complete" in done.output
    if shutil.which(shell):
        script = Path(tmp_path / "script")
        script.write_text(done.output)
        subprocess.run([shell, "-n", str(script)], check=True, capture_output=True)


def test_a_broken_file_of_settings_does_not_disturb(complete):
    assert complete("bigdecon", "run", "--config", "absent.toml", "--method", "w") == ["wiener"]
