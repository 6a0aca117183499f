"""The rules of the house: the links, the direction of imports, configs, the README's tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import agentopd
from agentopd.running.reading import arm_config, load_config

ROOT = Path(__file__).parents[1]
CORE = ROOT / "agentopd"
LINKS = ("configs", "envs", "teachers")
ADAPTERS = ("agentopd.envs", "agentopd.teachers")
CONFIGS = CORE / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
METHODS = sorted(path.stem for path in CONFIGS.glob("methods/*.yaml"))
OTHERS = ("methods", "scale")
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in OTHERS)
NOTE_TO_SELF = re.compile(r"\b(?:TO" r"DO|FIX" r"ME)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|tmp|mnt|opt)/\w")

in_a_checkout = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="an unpacked sdist holds the files where the links stand"
)


@in_a_checkout
@pytest.mark.parametrize("name", LINKS)
def test_the_package_links_to_the_folders_at_the_top(name: str) -> None:
    assert (CORE / name).is_symlink(), f"agentopd/{name} is not a link: git needs core.symlinks"
    assert (CORE / name).readlink() == Path("..") / name


@in_a_checkout
@pytest.mark.parametrize("name", ["envs", "teachers"])
def test_the_folders_at_the_top_are_no_packages_of_their_own(name: str) -> None:
    tried = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert tried.returncode == 1
    assert f"ImportError: import agentopd.{name}, not {name}" in tried.stderr


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of the modules, and of the names in them, that code in `package` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = [*parents, node.module] if node.level else [node.module]
            yield from (".".join(filter(None, [*base, alias.name])) for alias in node.names)


def _strings(tree: ast.AST) -> Iterator[str]:
    """The string constants that begin with a dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^[\w.]+", node.value)


def _adapters_among(names: Iterator[str]) -> set[str]:
    return {name for name in names for top in ADAPTERS if f"{name}.".startswith(f"{top}.")}


@pytest.mark.parametrize(
    "source",
    [
        "import agentopd.envs.sokoban",
        "import agentopd.teachers as t",
        "from agentopd.envs.sokoban.env import Sokoban",
        "from agentopd import envs",
        "from .. import teachers",
        "from ..envs import sokoban",
        "def late():\n    from agentopd.teachers import lagged",
    ],
)
def test_every_way_to_import_an_adapter_is_seen(source: str) -> None:
    assert _adapters_among(_imports(ast.parse(source), "agentopd.signal"))


def test_imports_of_the_core_are_not_taken_for_adapters() -> None:
    source = "import agentopd.models\nfrom agentopd import base\nfrom . import envs\nimport envsets"
    assert not _adapters_among(_imports(ast.parse(source), "agentopd.signal"))


FLOORS = """
    cli
    commands
    looking
    zoo
    running
    learning
    probes
    privilege
    mixes
    weights
    units
    divergences
    asking
    rollout
    teacher
    serving
    models
    environment
    stored
    signal
    parallel
    base
"""
"""From the top of the house to the ground: what is imported lies on a floor below, or in one's own
room.
"""
HEIGHT = {
    room: -number for number, floor in enumerate(FLOORS.split("\n")) for room in floor.split()
}
MAY_NAME_ADAPTERS = ("cli.py", "commands/", "zoo/", "running/kinds.py", "learning/controls.py")


def _room(name: str) -> str:
    """The room of a module of the package, or of a name in it."""
    return name.split(".")[1] if "." in name else ""


def _dependencies() -> dict[str, set[str]]:
    """What each module of the core imports of the core, also where it is for types alone."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in _modules(CORE, skip=LINKS)
    }
    found = {}
    for module, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        package = ".".join(path.relative_to(ROOT).parent.parts)
        names = {n for n in _imports(tree, package) if n.startswith("agentopd.")}
        named = {n if n in paths else n.rpartition(".")[0] for n in names}
        found[module.removesuffix(".__init__")] = named - {module}
    return found


def test_imports_run_down_the_stair() -> None:
    offenders = []
    for module, names in _dependencies().items():
        room = _room(module)
        if room in ("", "__init__", "__main__"):
            continue  # the public face and `python -m agentopd`
        for name in names:
            below = _room(name)
            if below in HEIGHT and below != room and HEIGHT[below] >= HEIGHT[room]:
                offenders.append(f"{module} imports {name}")
    assert offenders == []


def test_no_imports_go_in_a_circle() -> None:
    graph = _dependencies()
    on_the_way: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        if module in on_the_way:
            circle = [*on_the_way[on_the_way.index(module) :], module]
            raise AssertionError(" -> ".join(circle))
        if module in done or module not in graph:
            return
        on_the_way.append(module)
        for name in sorted(graph[module]):
            visit(name)
        done.add(on_the_way.pop())

    for module in graph:
        visit(module)


def test_no_room_is_a_flat_hall() -> None:
    sizes = {
        folder.relative_to(CORE).as_posix(): len(list(folder.glob("*.py")))
        for folder in CORE.rglob("*")
        if folder.is_dir() and folder.relative_to(CORE).parts[0] not in LINKS
    }
    assert {name: size for name, size in sizes.items() if size > 13} == {}, "12 and __init__.py"


def test_only_those_who_must_name_environments_and_teachers() -> None:
    """The method knows them by their contracts."""
    offenders = {}
    for path in _modules(CORE, skip=LINKS):
        within = path.relative_to(CORE).as_posix()
        if within.startswith(MAY_NAME_ADAPTERS):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        names = _adapters_among(_imports(tree, ".".join(path.relative_to(ROOT).parent.parts)))
        if within != "__init__.py":
            names |= _adapters_among(_strings(tree))
        if within == "environment/registry.py":
            names -= {"agentopd.envs"}  # the name of the plugins' entry-point group
        if names:
            offenders[within] = names
    assert not offenders


def test_there_are_runs_and_methods_to_read() -> None:
    assert QUICKSTART in RUNS
    assert METHODS


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_run_and_every_arm_of_a_study_can_be_read(path: Path) -> None:
    run = load_config(path)
    for arm in run.study.arms if run.study else ():
        arm_config(run, arm, seed=0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_put_into_the_quickstart(name: str) -> None:
    assert load_config(QUICKSTART, [f"method={name}"]).method == name


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (NOTE_TO_SELF, "# TO" + "DO: later"),
        (MACHINE_PATH, "out = '/" + "home/ann/runs'"),
        (MACHINE_PATH, "cd /" + "root/x"),
    ],
)
def test_what_has_no_place_in_a_file_is_seen(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


@pytest.mark.parametrize("line", ["https://a.org/home/x", "framework/tmp/x", "../work/y"])
def test_addresses_and_relative_paths_are_no_machine_paths(line: str) -> None:
    assert not MACHINE_PATH.search(line)


@in_a_checkout
def test_no_file_names_a_machines_path_or_a_note_to_self() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    files = [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    assert len(files) > len(_modules(CORE, skip=LINKS))
    found = []
    for path in files:
        content = path.read_bytes()
        if b"\0" in content[:4096]:
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            if NOTE_TO_SELF.search(line) or MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def _modules(folder: Path, skip: tuple[str, ...] = ()) -> list[Path]:
    """The Python files under `folder`, without the folders in it that `skip` names."""
    return sorted(p for p in folder.rglob("*.py") if p.relative_to(folder).parts[0] not in skip)


def _tree(text: str) -> dict[str, str]:
    """Path -> remark of each line of a drawn tree.

    A line is an indent, a name without spaces (a folder's ends with `/`), two spaces or more, and a
    remark. A line stands in the nearest folder above it that is indented less.
    """
    found: dict[str, str] = {}
    folders: list[tuple[int, str]] = []
    for line in filter(str.strip, text.splitlines()):
        indent = len(line) - len(line.lstrip())
        name, _, remark = line.strip().partition("  ")
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = (folders[-1][1] if folders else "") + name
        assert path not in found, f"{path} stands twice in the tree"
        found[path] = remark.strip()
        if name.endswith("/"):
            folders.append((indent, path))
    return found


def test_a_drawn_tree_is_read_as_it_looks() -> None:
    text = "a/         one\n  b.py     two\n  c/       three\n    d.py   four\ne/f.py     five\n"
    assert _tree(text) == {
        "a/": "one",
        "a/b.py": "two",
        "a/c/": "three",
        "a/c/d.py": "four",
        "e/f.py": "five",
    }


def _tree_in(page: Path) -> dict[str, str]:
    """The tree drawn under the heading `## The tree` of a page; every line has its remark and names
    something.
    """
    text = page.read_text(encoding="utf-8")
    fenced = re.search(r"^## The tree$.*?^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert fenced, f"{page.name} has no fenced block under the heading `## The tree`"
    tree = _tree(fenced[1])
    assert [path for path in tree if not (ROOT / path).exists()] == [], "names of nothing"
    assert [path for path, remark in tree.items() if not remark] == [], "lines without a remark"
    return tree


@in_a_checkout
def test_the_tree_in_the_docs_is_the_tree() -> None:
    tree = _tree_in(ROOT / "docs" / "architecture.md")
    # a folder's own line stands for its __init__.py
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (*_modules(CORE, LINKS), *_modules(ROOT / "envs"), *_modules(ROOT / "teachers"))
        if path.name != "__init__.py"
    }
    assert sorted(modules - tree.keys()) == [], "modules that the tree leaves out"


@in_a_checkout
def test_the_tree_in_the_readme_shows_every_room() -> None:
    tree = _tree_in(ROOT / "README.md")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {f"{path.partition('/')[0]}/" for path in listed if "/" in path}
    rooms = {
        f"agentopd/{path.name}{'/' if path.is_dir() else ''}"
        for path in CORE.iterdir()
        if path.name not in ("__init__.py", "__pycache__", "py.typed")
    }
    missing = {x for x in folders | rooms if not x.startswith(".")} - tree.keys()
    assert sorted(missing) == []


def test_the_public_names_are_all_there_and_nothing_else_is() -> None:
    """Their order is ruff's affair (RUF022)."""
    names = agentopd.__all__
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(agentopd, name)] == []
    public = {
        name
        for name, value in vars(agentopd).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert sorted(public - set(names)) == []
    assert set(names) <= set(dir(agentopd))
    assert not hasattr(agentopd, "nothing_of_the_kind")


PROMISED = """
    Unit Source Teacher Weight Mix Divergence Rollout TextEnv Text
    register register_scheme make parse_action check_env
    train compare replay write_report load_config parse_config RunConfig ConfigError
    Trajectory Turn Span Privilege Lesson Evidence Row Route Channels
    LanguageModel Sampler EnvSettings
"""
"""What scripts of users import: a name that leaves needs a line in the changelog."""


def test_the_public_names_are_those_that_were_promised() -> None:
    assert sorted(agentopd.__all__) == sorted(PROMISED.split())


def test_late_names_are_the_same_for_types_and_at_run_time() -> None:
    """A type checker reads the imports, Python the table."""
    tree = ast.parse((CORE / "__init__.py").read_text(encoding="utf-8"))
    for_types = next(node for node in tree.body if isinstance(node, ast.If))
    read = {
        node.module: tuple(alias.name for alias in node.names)
        for node in for_types.body
        if isinstance(node, ast.ImportFrom)
    }
    assert read == agentopd._LATE


@pytest.mark.parametrize("module", ["agentopd", "agentopd.cli"])
def test_the_public_face_and_the_help_come_without_torch(module: str) -> None:
    """Gymnasium alone finds the environments by then."""
    program = f"""
import sys, {module}, gymnasium
assert gymnasium.spec("agentopd/Sokoban-v0")
late = {{"torch", "transformers", "matplotlib", "pyarrow"}} & set(sys.modules)
sys.exit(f"imported {{sorted(late)}}" if late else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_gymnasium_makes_our_environments_once_the_package_is_imported() -> None:
    program = """
import agentopd, gymnasium
observation, info = gymnasium.make("agentopd/Sokoban-v0").reset(seed=0)
assert "#" in observation and info["task_id"]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
