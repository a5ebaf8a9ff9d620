"""What holds for the project as a whole: public names, help, packaging, and documents that run.

README.md is run by these rules. All `python` blocks, in order, are one script. In `console` blocks
every line "$ bigdecon ..." is a command; other lines are for people. Both run in one folder that holds
volume.ome.zarr, second.ome.zarr and psf.tif, the commands first. Training is cut to two steps, and settings
of Richardson-Lucy that are not given are set instead of chosen. Blocks of another kind (`sh`, `text`) are
not run.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import itertools
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import zarr
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bigdecon
from tests.documents import SHAPE_ZYX, fill_user_folder, shortened

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted(m.name for m in pkgutil.walk_packages(bigdecon.__path__, "bigdecon."))
HEAVY = ("torch", "dask", "distributed", "zarr", "scipy", "skimage", "matplotlib", "s3fs", "tifffile")
RUN_FLAGS = """--psf --psf-voxel-size --voxel-size --output -o --level --channel --timepoint --roi --method
--preset --loss --steps --train-minutes --model --seed --block --halo --tile --engine --subtract-background
--iterations --background --device --dtype --ome-version --overwrite --dry-run --cluster --workers --threads
--memory-limit --dashboard-address --quiet --json"""


def commands() -> dict[str, click.Command]:
    """Every command by its words, as in "psf make"."""
    main = importlib.import_module("bigdecon_cli.main")
    found: dict[str, click.Command] = {}
    todo: list[tuple[str, click.Command]] = [("", main.bigdecon)]
    while todo:
        words, command = todo.pop()
        found[words] = command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None, name
                todo.append((f"{words} {name}".strip(), inner))
    return found


def help_of(words: str, command: click.Command) -> str:
    """What `--help` prints."""
    return command.get_help(click.Context(command, info_name=f"bigdecon {words}".strip()))


def python(code: str) -> str:
    """Run code in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- public names -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bigdecon", *MODULES])
def test_public_names_exist_and_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    if public is None:
        assert hasattr(module, "__path__"), f"{name} has no __all__"
        return
    assert len(public) == len(set(public)), f"{name}.__all__ names something twice"
    for entry in public:
        thing = getattr(module, entry)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{entry} has no docstring"
            assert not (thing.__doc__ or "").startswith(f"{entry}("), (
                f"{name}.{entry} has no docstring of its own"
            )


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = python(f"import bigdecon, sys; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded.strip() == "[]"


# --- command line -----------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    loaded = python(
        "import sys; from bigdecon_cli.main import bigdecon\n"
        "bigdecon.main(['--help'], standalone_mode=False)\n"
        f"print([m for m in (*{HEAVY}, 'numpy') if m in sys.modules])"
    )
    assert loaded.strip().splitlines()[-1] == "[]"
    assert "Example" in loaded


def test_help_of_every_command_imports_nothing_heavy() -> None:
    loaded = python(
        "import sys, click; from bigdecon_cli.main import COMMANDS, bigdecon\n"
        "for name in COMMANDS: bigdecon.get_command(click.Context(bigdecon), name).get_help("
        "click.Context(bigdecon))\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert loaded.strip().splitlines()[-1] == "[]"


def test_every_command_shows_an_example_and_explains_its_flags() -> None:
    for words, command in commands().items():
        text = help_of(words, command)
        assert re.search(rf"Examples?:?\s*\n\s+bigdecon {words}", text), f"bigdecon {words} shows no example"
        for option in (p for p in command.params if isinstance(p, click.Option)):
            assert option.help, f"bigdecon {words}: {option.opts[0]} is not explained"
            for flag in option.opts:
                assert flag in text, f"bigdecon {words}: {flag} is not shown"


def test_run_has_the_promised_flags() -> None:
    command = commands()["run"]
    flags = {flag for p in command.params if isinstance(p, click.Option) for flag in p.opts}
    assert set(RUN_FLAGS.split()) <= flags


def test_readme_names_only_flags_that_exist() -> None:
    flags = {
        flag
        for command in commands().values()
        for p in command.params
        if isinstance(p, click.Option)
        for flag in (*p.opts, *p.secondary_opts)
    } | {"--help", "--version"}
    text = re.sub(r"```sh\n.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= flags


# --- packaging --------------------------------------------------------------------------------


def test_version_is_the_same_everywhere() -> None:
    version = importlib.metadata.version("bigdecon")
    assert PYPROJECT["project"]["version"] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_package_is_installed() -> None:
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "bigdecon").rglob("__init__.py")}
    assert {*folders, "bigdecon_cli"} == set(PYPROJECT["tool"]["setuptools"]["packages"])


def requirements(names: list[str]) -> dict[str, Requirement]:
    """Requirements by their canonical names."""
    return {canonicalize_name(r.name): r for r in map(Requirement, names)}


def extra(name: str) -> list[str]:
    """Requirements of an extra, and of the extras of ours that it takes in."""
    found = []
    for line in PYPROJECT["project"]["optional-dependencies"][name]:
        inner = re.fullmatch(r"bigdecon\[([\w-]+)\]", line)
        found += extra(inner[1]) if inner else [line]
    return found


def test_tested_versions_lie_in_the_accepted_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = requirements([line for line in lines if line and not line.startswith("#")])
    project = PYPROJECT["project"]
    wanted = requirements([*project["dependencies"], *extra("dev")])
    assert wanted.keys() <= pins.keys()
    for name, requirement in wanted.items():
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), name


def test_conda_environment_has_the_same_ranges() -> None:
    lines = re.findall(r"^  - ([a-z0-9-]+ [^:\n]+)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    conda = requirements(lines)
    other_names = {
        "dask": "dask-core",
        "matplotlib": "matplotlib-base",
        "torch": "pytorch",
        "xxhash": "python-xxhash",
    }
    for name, requirement in requirements(PYPROJECT["project"]["dependencies"]).items():
        assert conda[other_names.get(name, name)].specifier == requirement.specifier, name


# --- measured switches ------------------------------------------------------------------------


def test_the_switch_to_the_fft_follows_the_recorded_measurement() -> None:
    """Direct convolution up to the largest PSF for which it won, the FFT from the next one on."""
    from bigdecon.optics.blur import DIRECT_BELOW

    recorded = json.loads((ROOT / "benchmarks" / "results" / "fft_crossover.json").read_text())
    for ndim, below in DIRECT_BELOW.items():
        sides = sorted({t["kernel"] for t in recorded["timings"] if len(t["image"]) == ndim})
        assert {3, 63} <= set(sides)
        largest = recorded["direct_up_to"][f"{ndim}D"]
        following = sides[sides.index(largest) + 1]
        assert largest**ndim < below <= following**ndim, f"{ndim}D: direct wins up to {largest}"


# --- documents that run -----------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    """Fenced blocks of one kind in README.md, in order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )


def readme_commands() -> list[list[str]]:
    """Words of the lines "$ bigdecon ..." in README.md."""
    lines = "".join(blocks("console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ bigdecon ")]


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """A folder as a user's: volume.ome.zarr, second.ome.zarr (32x48x48 voxels) and psf.tif (17^3)."""
    return fill_user_folder(tmp_path)


def run_in(folder: Path, words: list[str]) -> None:
    """Run a command line and show what it said if it fails."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def test_every_module_has_one_row_in_its_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## Rooms")[1].split("\n## ")[0]
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    named = [re.fullmatch(r"\| `([\w/]+\.py)` \| [^|]+ \|", line) for line in table]
    broken = [line for line, row in zip(table, named, strict=True) if row is None]
    assert not broken, "docs/architecture.md has rows that are no rows of this table"
    rows = [row[1] for row in named if row]
    modules = [*(ROOT / "bigdecon").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    there = [str(p.relative_to(ROOT)).removeprefix("bigdecon/") for p in modules if p.name != "__init__.py"]
    assert sorted(rows) == sorted(there)
    rooms = [room for room, _ in itertools.groupby(str(Path(row).parent) for row in rows)]
    packages = [room for room in rooms if room != "."]
    assert len(packages) == len(set(packages)), "rows of one room stand apart"


def test_readme_has_something_to_run() -> None:
    words = [line[1] for line in readme_commands()]
    assert {"run", "info", "psf"} <= set(words)
    assert blocks("python")


@pytest.mark.slow
def test_readme_runs(user_folder: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command as users start it, with a cluster of its own; the others in this process."""
    from bigdecon_cli.main import bigdecon as main

    first, *others = readme_commands()
    run_in(user_folder, [*first, "--steps", "2"])
    monkeypatch.chdir(user_folder)
    for words in others:
        result = CliRunner().invoke(main, shortened(words[1:], cluster))
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}\n{result.exception!r}"
    script = re.sub(r"\bsteps=\d+", "steps=2", "\n".join(blocks("python")))
    (user_folder / "readme.py").write_text(script)
    run_in(user_folder, [sys.executable, "readme.py"])
    for name in ("volume.deconvolved.ome.zarr", "from_python.ome.zarr"):
        assert "ome" in json.loads((user_folder / name / "zarr.json").read_text())["attributes"]


@pytest.mark.slow
def test_quickstart_runs(user_folder: Path) -> None:
    script = str(ROOT / "examples" / "quickstart.py")
    run_in(
        user_folder, [sys.executable, script, "volume.ome.zarr", "psf.tif", "out.ome.zarr", "--steps", "2"]
    )
    written = zarr.open_group(user_folder / "out.ome.zarr", mode="r")["0"]
    assert written.shape == SHAPE_ZYX
