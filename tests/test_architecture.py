"""Who may import whom (DESIGN, section 2)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdn_fallback

PACKAGE = Path(cdn_fallback.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FACES = ("cli", "__main__")  # they put the parts together: the only ones that know both halves
CLIENT = sorted(name for name in MODULES if name.partition(".")[0] not in (*FACES, "mirror"))
MIRROR = sorted(name for name in MODULES if name.partition(".")[0] == "mirror")
PURE = (
    *("pool", "verdicts", "failover", "headers", "pages", "errors"),
    *("mirror.model", "mirror.names", "mirror.media_types", "mirror.render", "mirror.site"),
    *("mirror.cost", "mirror.report"),
    *("mirror.negotiate", "mirror.nginx", "mirror.nginx_rules", "mirror.grammar", "mirror.patterns"),
    *("mirror.edge", "mirror.edge.cases", "mirror.edge.cloudfront", "mirror.edge.nginx", "mirror.edge.settings"),
    *("mirror.redirectors", "mirror.redirectors.lighttpd", "mirror.redirectors.nginx", "mirror.redirectors.zone"),
)
IMPURE = {
    "time",
    "random",
    "socket",
    "os",
    "ssl",
    "select",
    "threading",
    "subprocess",
    "pathlib",
    "secrets",
    "requests",
}


def imports(path: Path, *, typing: bool = False) -> Iterator[str]:
    """The modules that the file imports, anywhere in it; those under ``if TYPE_CHECKING`` only if asked for."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide who is meant"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole.removeprefix("cdn_fallback.") in MODULES else module
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


def loaded_by(statement: str) -> set[str]:
    """The modules that `statement` adds to those of a bare interpreter."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); before = set(sys.modules)\n"
        f"{statement}\nprint(*set(sys.modules) - before)"
    )
    # -S: what a .pth file of this environment loads at its start is not ours
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_the_plugin_costs_pip_next_to_nothing() -> None:
    loaded = loaded_by("import cdn_fallback.pip_plugin")
    assert "cdn_fallback.pip_plugin" in loaded
    heavy = {"sqlite3", "obstore", "requests", "urllib3", "ssl", "json", "socket"}
    assert not {name.partition(".")[0] for name in loaded} & heavy
    assert not {name for name in loaded if name.startswith(("cdn_fallback.mirror", "cdn_fallback.cli", "pip"))}


def test_a_run_of_a_mirror_loads_no_more_than_it_needs() -> None:
    """Of a folder's, which most runs leave as it is, within a tenth of a second."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import cdn_fallback.mirror.mirror\n"
        "import cdn_fallback.mirror.sources.directory; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "cdn_fallback.mirror.publish" in loaded
    assert not loaded & {"requests", "obstore", "concurrent.futures", "cdn_fallback.mirror.sources.simple_api"}


def test_the_package_alone_loads_nothing() -> None:
    assert loaded_by("import cdn_fallback") - {"__future__"} == {"cdn_fallback"}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_no_time_no_chance_and_no_network(name: str) -> None:
    assert not {module.partition(".")[0] for module in imports(MODULES[name])} & IMPURE


@pytest.mark.parametrize("name", CLIENT)
def test_the_client_half_never_imports_the_mirror_or_the_command_line(name: str) -> None:
    others = tuple(f"cdn_fallback.{other}" for other in (*FACES, "mirror"))
    assert not [module for module in imports(MODULES[name], typing=True) if module.startswith(others)]


@pytest.mark.parametrize("name", MIRROR)
def test_the_mirror_uses_the_client_half_as_any_program_would(name: str) -> None:
    """Its requests adapter, and what that is configured with; and never the command line."""
    found = {module.split(".")[1] for module in imports(MODULES[name]) if module.startswith("cdn_fallback.")}
    assert found <= {"mirror", "adapter", "pool", "config", "errors"}


@pytest.mark.parametrize("name", [name for name in MIRROR if not name.startswith("mirror.catalog")])
def test_only_the_catalog_speaks_sql(name: str) -> None:
    assert "sqlite3" not in {module.partition(".")[0] for module in imports(MODULES[name])}


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["mirror", "--help"], 0), (["mirror", "run"], 2)])
def test_without_the_extra_the_command_line_works_and_names_it(arguments: list[str], code: int) -> None:
    without = "import sys; sys.modules.update(dict.fromkeys(['isal', 'isal.isal_zlib', 'tqdm', 'tomli', 'sqlite3']))"
    statement = f"{without}; import cdn_fallback.cli; sys.exit(cdn_fallback.cli.main({arguments}))"
    run = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == code
    assert ("cdn-fallback[mirror]" in run.stderr) == (code == 2)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nobody_imports_pip_by_name(name: str) -> None:
    """Hooks hold on to modules that pip itself has loaded; `pip_plugin` alone may name some, in strings."""
    assert not [module for module in imports(MODULES[name]) if module.partition(".")[0] == "pip"]


def ours(name: str) -> set[str]:
    """The modules of the package that the module `name` imports at run time."""
    found = {module.removeprefix("cdn_fallback.") for module in imports(MODULES[name]) if module != "cdn_fallback"}
    return {module for module in found if module in MODULES}


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("errors", set()),
        ("pool", set()),
        ("dial", set()),
        ("health", set()),
        ("pages", set()),
        ("headers", {"pool"}),
        ("verdicts", {"errors", "pool"}),
        ("failover", {"errors", "pool", "verdicts"}),
    ],
)
def test_the_parts_below_the_transport_stand_alone(name: str, below: set[str]) -> None:
    assert ours(name) <= below


def test_no_module_imports_itself_by_way_of_others() -> None:
    """At run time, also from within functions."""
    graph = {name: ours(name) for name in MODULES}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name in graph if name not in done and graph[name] <= done}
        assert ready, f"a circle among {sorted(set(graph) - done)}"
        done |= ready
