"""The documentation: its commands and code run, its options exist, its pages hold together.

The rules are those of README.md (tests/test_project.py), for every page of docs/ on its own. `console`
blocks: each line "$ bigdecon ..." is run, in a folder with volume.ome.zarr, second.ome.zarr, psf.tif and
beads.ome.tif; training is cut to two steps, and settings of Richardson-Lucy that are not given are set
instead of chosen.
`python` blocks: one script a page. `sh` blocks are what cannot be run (batch systems, buckets): their options
and values must be ones that the command knows.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import bigdecon
from tests.browser import browser  # noqa: F401
from tests.documents import fill_user_folder, shortened
from tests.test_project import commands

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
OTHER_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
SERVING = {"view"}
"""Commands that go on until they are stopped."""
FOREIGN = {"--nv", "--bind", "--no-cache-dir", "--no-index", "--find-links", "--cpus-per-task", "--preload"}
"""Options of other programs that the text speaks of."""
OWN_TESTS = {
    "convert.md": "test_convert_and_view_pages.py",
    "slurm.md": "test_slurm_page.py",
    "viewers.md": "test_convert_and_view_pages.py",
}
"""Pages that need other files or a batch system, and the tests that run them."""


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one kind, in order."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def simple_commands(script: str) -> list[list[str]]:
    """Split shell lines into commands, each a list of words."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("\n", " ;\n"), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def calls(script: str) -> list[list[str]]:
    """Arguments of each call of bigdecon in shell lines, also behind `srun ...` and in a container."""
    found = []
    for words in simple_commands(script):
        if words[:2] == ["apptainer", "run"]:
            words = ["bigdecon", *words[words.index("bigdecon.sif") + 1 :]]
        if "bigdecon" in words:
            found.append(words[words.index("bigdecon") + 1 :])
    return found


def shown(page: Path) -> list[list[str]]:
    """Arguments of each call of bigdecon that a page shows: in blocks, and in the text."""
    console = [line[2:] for text in blocks(page, "console") for line in joined(text) if line[:2] == "$ "]
    inline = re.findall(
        r"(?<!`)`(bigdecon [^`]*)`(?!`)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    )
    texts = [*blocks(page, "sh"), *console, *(re.sub(r"\s+", " ", text) for text in inline)]
    return [words for text in texts for words in calls(text)]


def text_of(page: Path) -> str:
    """Give a page without its blocks."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def joined(text: str) -> list[str]:
    """Lines, those that end in a backslash with the next."""
    return text.replace("\\\n", " ").splitlines()


def check_call(words: list[str]) -> None:
    """Raise click's error where a command, an option or a value is unknown."""
    known = commands()
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), "")
    command = known[name]
    rest = words[len(name.split()) :]
    if rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        raise click.UsageError(f"bigdecon {name} knows no {rest[0]}")
    if name == "" or "..." in rest or rest in (["--help"], []):
        return
    context = click.Context(command, info_name=name)
    given, _, order = command.make_parser(context).parse_args(list(rest))
    for option in {o for o in order if isinstance(o, click.Option) and not isinstance(o.type, click.Path)}:
        option.type_cast_value(context, given[option.name])


# --- the text is right ------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: page.stem)
def test_shown_commands_and_options_exist(page: Path) -> None:
    for words in shown(page):
        try:
            check_call(words)
        except click.ClickException as error:
            pytest.fail(f"{page.name}: bigdecon {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    """Also where no site is built: on a forge, or in an editor."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = set(listed.stdout.split("\0"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    links = {target.partition("#")[0] for target in targets if "://" not in target} - {""}
    paths = {link: os.path.relpath(os.path.normpath(page.parent / link), ROOT) for link in links}
    broken = {link for link, path in paths.items() if path not in tracked}
    assert not broken, f"{page.name} links to what is not in the repository"


def test_flags_in_the_text_exist() -> None:
    known = {
        flag
        for command in commands().values()
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "--version"}
    for page in PAGES:
        named = set(re.findall(r"`(--[a-z][a-z-]*[a-z])(?=[ =`])", text_of(page)))
        assert named <= known | FOREIGN, page.name


@pytest.mark.parametrize(
    "words",
    ["run a --nonsense", "run a --method magic", "nonsense", "run a --seed one", "psf guess", "run a --psf"],
)
def test_a_wrong_command_is_found(words: str) -> None:
    with pytest.raises(click.ClickException):
        check_call(words.split())


def test_calls_are_found_in_scripts() -> None:
    script = 'x="a b"\nsrun --gres=gpu:1 bigdecon info "$x" & # bigdecon x\nbigdecon run a \\\n --psf b; ls\n'
    assert calls(script) == [["info", "$x"], ["run", "a", "--psf", "b"]]
    assert calls("apptainer run --nv bigdecon.sif run a --psf b") == [["run", "a", "--psf", "b"]]


def test_every_page_for_beginners_has_something_to_run() -> None:
    for name in ("index", "install", "first_run", "methods", "large_volumes"):
        assert blocks(ROOT / "docs" / f"{name}.md", "console"), name


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name in OWN_TESTS], ids=lambda page: page.stem
)
def test_other_pages_are_run_by_tests_of_their_own(page: Path) -> None:
    assert page.name in (ROOT / "tests" / OWN_TESTS[page.name]).read_text()


# --- what is shown runs -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in OWN_TESTS and blocks(p, "console")], ids=lambda page: page.stem
)
def test_commands_run(page: Path, tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bigdecon_cli.main import bigdecon as main

    monkeypatch.chdir(fill_user_folder(tmp_path))
    lines = [line[2:] for text in blocks(page, "console") for line in joined(text) if line[:2] == "$ "]
    for words in (words for line in lines for words in calls(line) if words[0] not in SERVING):
        result = CliRunner().invoke(main, shortened(words, cluster))
        assert result.exit_code == 0, f"bigdecon {shlex.join(words)}\n{result.output}\n{result.exception!r}"


@pytest.mark.slow
def test_code_runs(tmp_path: Path) -> None:
    """One interpreter for all pages, each with names and a folder of its own."""
    pages = [p for p in PAGES if p.name not in OWN_TESTS and blocks(p, "python")]
    assert "python.md" in {p.name for p in pages}
    scripts = []
    for page in pages:
        (tmp_path / page.stem).mkdir()
        fill_user_folder(tmp_path / page.stem)
        code = re.sub(r"\bsteps=\d+", "steps=2", "\n".join(blocks(page, "python")))
        scripts.append((page.stem, code))
    (tmp_path / "scripts.json").write_text(json.dumps(scripts))
    (tmp_path / "all.py").write_text(
        "import json, os\n"
        "from pathlib import Path\n"
        "here = Path(__file__).parent\n"
        "if __name__ == '__main__':\n"
        "    for name, code in json.loads((here / 'scripts.json').read_text()):\n"
        "        os.chdir(here / name)\n"
        "        exec(compile(code, f'docs/{name}.md', 'exec'), {'__name__': '__main__'})\n"
    )
    done = subprocess.run(
        [sys.executable, "all.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- the reference is whole -------------------------------------------------------------------


def hook(name: str, folder: str = "hooks") -> Any:
    """Import a file of docs/hooks, or of another folder of docs/."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / folder / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_reference_knows_every_public_name() -> None:
    assert set(hook("api_reference").homes()) == set(bigdecon.__all__)


def test_reference_knows_every_command_and_option() -> None:
    text = hook("command_reference").reference()
    for words, command in commands().items():
        if not isinstance(command, click.Group) and not command.hidden:
            section = text.split(f"\n## bigdecon {words}\n")[1].split("\n## ")[0]
            for option in (p for p in command.params if isinstance(p, click.Option) and not p.hidden):
                assert all(flag in section for flag in option.opts), f"bigdecon {words} {option.opts}"


def test_docstrings_are_read_as_they_are_written() -> None:
    text = (
        "Do.\n\nParameters\n----------\nx, y : (z, y, x)\n    or so\n\n"
        "Returns\n-------\nwhat there is\n\nNotes\n-----\na : b\n"
    )
    made = hook("docstrings").as_numpydoc(text, "int")
    assert "x, y\n    (z, y, x)\n    or so\n" in made
    assert "int\n    what there is\n" in made
    assert made.endswith("Notes\n-----\na : b\n")


def complaints(package: Path, caplog: pytest.LogCaptureFixture) -> tuple[int, list[str]]:
    """Count the sections of all docstrings of a package, and say what is wrong with them."""
    import griffe

    words = griffe.load_extensions(hook("docstrings").WordsNotTypes())
    top = griffe.load(package.name, search_paths=[package.parent], extensions=words, docstring_parser="numpy")
    sections, todo = 0, [top]
    with caplog.at_level(logging.WARNING):
        while todo:
            thing = todo.pop()
            todo += [member for member in thing.members.values() if not member.is_alias]
            if thing.docstring is not None and not thing.name.startswith("_"):
                sections += len(thing.docstring.parsed)
    return sections, [record.message for record in caplog.records]


def test_docstrings_fit_their_signatures(caplog: pytest.LogCaptureFixture) -> None:
    """A parameter that is described exists, and sections are ones that can be rendered."""
    sections, wrong = complaints(ROOT / "bigdecon", caplog)
    assert sections > 500
    assert not wrong


def test_a_docstring_of_another_function_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "__init__.py").write_text(
        'def f(a: int) -> int:\n    """Do.\n\n    Parameters\n    ----------\n    b : it\n    """\n'
    )
    assert any("'b'" in message for message in complaints(tmp_path / "faulty", caplog)[1])


def test_diagrams_are_those_of_the_script(tmp_path: Path) -> None:
    """All but the bytes of the little pictures, which depend on the library that packs them."""
    script = hook("draw", "figures")
    script.FOLDER = tmp_path
    script.draw_all()
    kept = sorted((ROOT / "docs" / "figures").glob("*.svg"))
    assert len(kept) == len(list(tmp_path.iterdir())) > 3
    for file in kept:
        drawn, stored = (
            re.sub(r'base64,[^"]*', "", (f / file.name).read_text()) for f in (tmp_path, file.parent)
        )
        assert drawn == stored, f"{file.name}: run docs/figures/draw.py"


# --- the pages as they are built --------------------------------------------------------------


def build(folder: Path, checkout: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Build the site into a folder, by the very words of scripts/check."""
    words = re.findall(
        r'^step "Documentation .*?" (.+)$', (ROOT / "scripts" / "check").read_text(), re.MULTILINE
    )
    command = [*shlex.split(words[0]), "--site-dir", str(folder)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if built := os.environ.get("BUILT_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


class Resources(HTMLParser):
    """What a page loads by itself, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "image", "source"):
            self.loaded += [values.get("src") or values.get("href") or ""]
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loaded += [values.get("href") or ""]


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = Resources()
        parser.feed(page.read_text())
        assert len(parser.loaded) > 3
        for address in parser.loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
            if not address.startswith("data:") and address and page.name != "404.html":
                assert (page.parent / address.split("?")[0]).exists(), f"{page.name} loads {address}"


@pytest.mark.slow
def test_faults_stop_the_build(tmp_path: Path) -> None:
    for entry in ROOT.iterdir():
        if entry.name not in ("docs", "build"):
            (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "faq.md").open("a") as page:
        page.write("\n[a](nothing.md) [b](methods.md#nothing) ![c](nothing.png) [d](../nothing.py)\n")
    (tmp_path / "docs" / "doctor.md").unlink()
    (tmp_path / "docs" / "lonely.md").write_text("# Not in the navigation\n")
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode != 0
    said = done.stderr + done.stdout
    for fault in ("nothing.md", "#nothing", "nothing.png", "nothing.py", "lonely.md", "doctor.md"):
        assert fault in said, f"{fault} went unnoticed:\n{said}"


@pytest.mark.slow
def test_search_works_without_a_server_and_pages_fit_a_phone(site: Path, browser: Any) -> None:  # noqa: F811
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    for page in ("index", "how_it_works", "commands", "api", "evidence", "slurm"):
        browser.get((site / f"{page}.html").as_uri())
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 390, f"{page} is {wide} pixels wide"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.set_window_size(1280, 900)
    browser.get((site / "index.html").as_uri())
    field = browser.find_element(By.CSS_SELECTOR, ".md-search__input")
    field.click()
    field.send_keys("total variation")
    WebDriverWait(browser, 20).until(
        lambda driver: driver.find_elements(
            By.CSS_SELECTOR, ".md-search-result__item a[href*='methods.html']"
        )
    )
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors


@pytest.mark.slow
def test_diagrams_are_readable_on_light_and_dark_pages(site: Path, browser: Any) -> None:  # noqa: F811
    """Words are dark on light pages and light on dark ones."""
    brightness = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get((site / "how_it_works.html").as_uri())
        colours = browser.execute_script(
            "return [...document.querySelectorAll('figure.diagram svg text')]"
            ".map(word => getComputedStyle(word).fill)"
        )
        assert len(colours) > 20
        assert len(set(colours)) == 1
        brightness[scheme] = [int(part) for part in re.findall(r"\d+", colours[0])[:3]]
    assert max(brightness["light"]) < 80
    assert min(brightness["dark"]) > 150


@pytest.mark.slow
def test_copied_commands_have_no_prompt(site: Path, browser: Any) -> None:  # noqa: F811
    browser.get((site / "first_run.html").as_uri())
    copied = browser.execute_script(
        "return [...document.querySelectorAll('.highlight code')]"
        ".map(code => { code.setAttribute('data-md-copying', ''); return code.innerText; })"
    )
    assert len(copied) > 4
    assert all(text.startswith("bigdecon ") for text in copied)
