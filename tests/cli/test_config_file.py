"""Settings from a TOML file and back: every option, what is refused, and how files are written."""

from __future__ import annotations

import os
import re
import stat
import string
import tomllib
from dataclasses import replace
from pathlib import Path

import click
import pytest
from bigdecon_cli.config_file import NOT_SAVED, check_place, command_line, save_settings
from bigdecon_cli.main import bigdecon
from bigdecon_cli.options import OWNERS, SLURM, run_config
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigdecon.config import METHODS, RunConfig
from bigdecon.errors import OptionError, OutputError

COMMAND = bigdecon.get_command(None, "run")
OPTIONS = [one for one in COMMAND.params if isinstance(one, click.Option) and one.name not in NOT_SAVED]
NEEDS = (*SLURM, "interface", "tls")
"""Options of --cluster slurm."""
PLAIN = COMMAND.make_context("run", ["a.tif"]).params
SPECIAL = {
    "jobs": st.sampled_from(["1:4", "3"]),
    "walltime": st.sampled_from(["4:00:00", "1-12", "90"]),
    "mem": st.sampled_from(["64G", "500"]),
    "job_directive": st.lists(st.sampled_from(["--constraint=a100", "--nice"]), min_size=1).map(tuple),
    "cluster": st.sampled_from(["local", "slurm", "tcp://host:8786", "https://a:b@host/x"]),
    "method": st.sampled_from(METHODS),
}
texts = st.text(string.printable[:95] + "µé中\t\x7f", min_size=1, max_size=12).filter(
    lambda t: t[0] not in "-~/"
)


def typed_values(option):
    """Draw what may be typed for an option."""
    if option.name in SPECIAL:
        return SPECIAL[option.name]
    if option.is_flag:
        return st.booleans()
    if option.nargs == 3:
        return st.tuples(*[st.floats(0.01, 10)] * 3)
    if isinstance(option.type, click.Choice):
        return st.sampled_from(list(option.type.choices))
    if option.multiple:
        return st.lists(texts, min_size=1, max_size=3).map(tuple)
    kinds = {
        "integer": st.integers(-5, 10**6),
        "float": st.floats(allow_nan=False),
        "text": texts,
        "path": texts,
    }
    whole = getattr(option.type, "kind", float) is int
    auto = st.just("auto") | (st.integers(0, 99) if whole else st.floats(allow_nan=False))
    return kinds.get(option.type.name, auto)


def words(option, value):
    """Spell an option as one would type it."""
    if option.is_flag:
        flags = option.opts if value else option.secondary_opts
        return [flags[0]] if flags else []
    if option.multiple:
        return [word for one in value for word in (f"{option.opts[-1]}={one}",)]
    if option.nargs == 3:
        return [option.opts[-1], *map(repr, value)]
    return [f"{option.opts[-1]}={value if isinstance(value, str) else repr(value)}"]


def read(*arguments) -> RunConfig:
    """Turn a command line into settings, as the command does."""
    return read_with_context(*arguments)[0]


def read_with_context(*arguments):
    with COMMAND.make_context("run", list(arguments)) as context:
        values = dict(context.params)
        for name in ("save_config", "log_file", "quiet", "as_json"):
            values.pop(name)
        return run_config(values.pop("input_path"), values), context


@st.composite
def command_lines(draw):
    method = draw(SPECIAL["method"])
    cluster = draw(SPECIAL["cluster"])
    line = ["a b.ome.zarr", f"--method={method}", f"--cluster={cluster}"]
    model = draw(st.booleans())
    for option in draw(st.lists(st.sampled_from(OPTIONS), unique_by=lambda one: one.name)):
        if option.name in ("method", "cluster", "log_file", "model"):
            continue
        if method not in OWNERS.get(option.name, METHODS) or (option.name in NEEDS and cluster != "slurm"):
            continue
        line += words(option, draw(typed_values(option)))
    if (
        model
        and method in OWNERS["model"]
        and not any(w.startswith(("--loss", "--steps", "--train")) for w in line)
    ):
        line.append("--model=net.safetensors")
    return line


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=command_lines(), elsewhere=st.booleans())
def test_saved_settings_are_the_same_settings(tmp_path_factory, line, elsewhere):
    folder = tmp_path_factory.mktemp("here")
    (folder / "there").mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        config, context = read_with_context(*line)
        file = "there/run.toml" if elsewhere else "run.toml"
        save_settings(context, file, quiet=True)
        again = read("--config", file)
        assert absolute(again) == absolute(config)
        if not elsewhere:
            assert again == config
    finally:
        os.chdir(before)


def absolute(config):
    def full(path):
        return path if path is None or "://" in path else os.path.normpath(os.path.abspath(path))

    cluster = config.cluster if config.cluster in ("local", "slurm") else full(config.cluster)
    slurm = replace(config.slurm, log_directory=full(config.slurm.log_directory))
    return replace(
        config, input=full(config.input), psf=tuple(map(full, config.psf)), mask=full(config.mask),
        model=full(config.model), output=full(config.output), cluster=cluster, slurm=slurm,
    )  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
def test_every_option_has_a_key(tmp_path, option):
    """Each of them alone; the values are the simplest ones."""
    values = {"integer": 7, "float": 0.5, "text": "x", "path": "x", "number|auto": 3}
    given = {"jobs": "2:3", "walltime": "90", "mem": "1G", "job_directive": ["--x"], "cluster": "slurm"}
    value = given.get(option.name, values.get(option.type.name))
    if option.is_flag:
        value = not PLAIN[option.name]
    elif isinstance(option.type, click.Choice):
        value = list(option.type.choices)[-1]
    elif option.nargs == 3:
        value = [0.3, 0.2, 0.1]
    key = max(option.opts, key=len).removeprefix("--")
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"]
    if option.name in NEEDS:
        lines.append('cluster = "slurm"')
    if option.name in OWNERS:
        lines.append(f'method = "{OWNERS[option.name][0]}"')
    (tmp_path / "run.toml").write_text('volume = "a.tif"\n' + "\n".join(lines))
    with COMMAND.make_context("run", ["--config", str(tmp_path / "run.toml")]) as context:
        found = context.params[option.name]
    assert found != PLAIN[option.name]


def test_only_what_differs_is_written_with_comments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, context = read_with_context(
        "a.tif", "--psf", "p.tif", "--seed", "0", "--method", "wiener", "--overwrite"
    )
    save_settings(context, "run.toml", quiet=True)
    text = Path("run.toml").read_text()
    assert tomllib.loads(text) == {"volume": "a.tif", "psf": ["p.tif"], "method": "wiener"}
    assert text.count("\n# ") == 4
    assert os.listdir() == ["run.toml"]


def test_what_was_chosen_stands_at_the_end_as_comments(tmp_path, monkeypatch):
    """The run goes on choosing; with the marks taken away the same numbers are given."""
    monkeypatch.chdir(tmp_path)
    _, context = read_with_context("a.tif", "--psf", "p.tif", "--method", "richardson-lucy")
    values = {"iterations": 28, "background": 1931.25, "sieve": 0.0, "accelerate": True}
    save_settings(context, "run.toml", quiet=True, chosen=[("DAPI", values)])
    text = Path("run.toml").read_text()
    plain = {"volume": "a.tif", "psf": ["p.tif"], "method": "richardson-lucy"}
    assert tomllib.loads(text) == plain
    uncommented = re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)
    assert tomllib.loads(uncommented) == plain | values
    Path("chosen.toml").write_text(uncommented)
    config = read("--config", "chosen.toml", "b.tif")
    assert (config.input, config.iterations, config.background) == ("b.tif", 28, 1931.25)
    assert (config.sieve, config.accelerate) == (0.0, True)
    save_settings(context, "two.toml", quiet=True, chosen=[("DAPI", values), ("a\nb", values)])
    assert tomllib.loads(Path("two.toml").read_text()) == plain
    assert "# DAPI\n#iterations" in Path("two.toml").read_text()


def test_what_is_typed_wins(tmp_path):
    (tmp_path / "run.toml").write_text(
        'volume = "a.tif"\nseed = 3\npsf = ["x", "y"]\nchannel = 1\ntls = false\ncluster = "slurm"'
    )
    config = read("--config", str(tmp_path / "run.toml"), "b.tif", "--psf", "z", "--seed", "4", "--tls")
    assert (config.input, config.seed, config.psf, config.channel, config.tls) == (
        "b.tif",
        4,
        ("z",),
        ("1",),
        True,
    )
    assert read("--config", str(tmp_path / "run.toml"), "--cluster", "local").cluster == "local"


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "run.toml").write_text(
        'volume = "a.tif"\npsf = ["/p.tif", "https://h/p.tif"]\ncluster = "s.json"\noutput = "~/r.ome.zarr"'
    )
    monkeypatch.chdir(tmp_path)
    config = read("--config", "lab/run.toml")
    assert (config.input, config.psf, config.cluster) == (
        "lab/a.tif",
        ("/p.tif", "https://h/p.tif"),
        "lab/s.json",
    )
    assert config.output == os.path.expanduser("~/r.ome.zarr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "unknown key stepz; did you mean steps?"),
        ("voxel_size = [1, 2, 3]", "did you mean voxel-size?"),
        ("xyzzy = 3", "the keys are the long flags of --help"),
        ("input = 'a'", "the image is called volume"),
        ("no-tls = true", "write tls = false"),
        ("dry-run = true", "for the command line only"),
        ("config = 'a'", "for the command line only"),
        ("[slurm]\njobs = 2", "a section [slurm]; all settings stand at the top"),
        ("steps = 'a'", "steps in FILE is 'a'; give a whole number"),
        ("steps = 2.5", "is 2.5; give a whole number"),
        ("steps = true", "is true; give a whole number"),
        ("skip-dim = 'a'", "give a number"),
        ("iterations = 2.5", 'give a whole number or "auto"'),
        ('block = "big"', 'give a whole number or "auto"'),
        ("tls = 1", "give true or false"),
        ("voxel-size = [1, 2]", "give three numbers, as [0.3, 0.13, 0.13]"),
        ("method = 'lucy'", 'one of "siamese", "ssi"'),
        ("walltime = 04:00:00", "walltime in FILE is 04:00:00; give text in quotes"),
        ("psf = [1, [2]]", 'give text or a list of texts, as ["one", "two"]'),
        ("method = siamese", "is not TOML: Invalid value (at line 1, column 10); a line reads name = value"),
        ("sieve = 1\nmethod = 'wiener'", "sieve (in FILE) belongs to the method richardson-lucy, not"),
        ("partition = 'a'", "partition (in FILE) belongs to --cluster slurm, not to local"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_sentence(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as error:
        read("a.tif", "--config", str(file))
    assert message.replace("FILE", str(file)) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"#" * 2**21)
    for name, message in {
        "": "is not a file",
        "nix": "does not exist",
        "binary": "UTF-8",
        "large": "1 MiB",
    }.items():
        with pytest.raises(OptionError, match=message):
            read("a.tif", "--config", str(tmp_path / name))


def test_files_of_others_are_left_alone(tmp_path):
    _, context = read_with_context("a.tif", "--seed", "5")
    mine, theirs = tmp_path / "run.toml", tmp_path / "theirs.toml"
    theirs.write_text("seed = 1\n")
    for place, message in [
        (theirs, "not written by"),
        (tmp_path, "is a folder"),
        (tmp_path / "x" / "y", "no folder"),
    ]:
        with pytest.raises(OutputError, match=message):
            save_settings(context, str(place), quiet=True)
        with pytest.raises(OutputError, match=message):
            check_place(str(place))
    assert theirs.read_text() == "seed = 1\n"
    save_settings(context, str(mine), quiet=True)
    _, context = read_with_context("a.tif", "--seed", "6")
    save_settings(context, str(mine), quiet=True)
    assert tomllib.loads(mine.read_text())["seed"] == 6


@pytest.mark.parametrize(
    ("line", "private"),
    [
        (["a.tif"], False),
        (["https://user:word@host/a.ome.zarr"], True),
        (["a.tif", "--cluster", "slurm", "--prologue", "export TOKEN=x"], True),
    ],
)
def test_what_may_be_secret_is_for_its_owner_alone(tmp_path, line, private):
    _, context = read_with_context(*line)
    before = os.umask(0o022)
    try:
        save_settings(context, str(tmp_path / "run.toml"), quiet=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.toml").stat().st_mode) == (0o600 if private else 0o644)


def test_the_command_line_hides_secrets():
    _, context = read_with_context(
        "https://me:word@host/a.zarr?sig=1", "--psf", "my psf.tif", "--cluster", "slurm",
        "--prologue", "export TOKEN=x", "--prologue=module load y", "--job-directive", "--export=SECRET=1",
        "--seed", "2",
    )  # fmt: skip
    assert command_line(context) == (
        "bigdecon run https://host/a.zarr --psf 'my psf.tif' --cluster slurm --prologue ... --prologue=... "
        "--job-directive ... --seed 2"
    )


def test_a_plan_and_a_run_take_each_others_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = bigdecon.get_command(None, "plan")
    with plan.make_context("plan", ["a.tif", "--seed", "3", "--no-calibrate", "--json"]) as context:
        save_settings(context, "plan.toml", quiet=True)
    assert read("--config", "plan.toml").seed == 3


def test_without_an_image_it_is_asked_for(tmp_path):
    (tmp_path / "run.toml").write_text("seed = 1")
    done = CliRunner().invoke(bigdecon, ["run", "--config", str(tmp_path / "run.toml")])
    assert done.exit_code == 2
    assert "Missing argument 'INPUT'" in done.output
