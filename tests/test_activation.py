"""What a start of Python does in an environment where cdn-fallback is enabled, in real interpreters."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from cdn_fallback import switch
from tests.environments import PIP, Venv, make, run, write

SESSION = "import pip._internal.network.session as session; "


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """An environment with pip where cdn-fallback is enabled. Tests leave it as they found it."""
    found = make(tmp_path_factory.mktemp("venv"))
    write(found.site / "pip", PIP)
    switch.enable(found.site)
    return found


@pytest.mark.parametrize("options", [(), ("-I",), ("-s", "-E"), ("-O",)])
def test_the_hook_is_called_once_the_module_has_run(venv: Venv, options: tuple[str, ...]) -> None:
    assert venv.says(SESSION + "print('end')", *options) == ["session 2", "end"]


def test_a_start_without_pip_loads_one_small_module(venv: Venv) -> None:
    """Every Python of the environment pays for it (bench/startup.py has the figures)."""
    code = "import sys; print(*sorted(sys.modules))"
    by_site = run(venv.python, "-S", "-c", f"import site; {code}").stdout.split()
    (here,) = venv.says(code)
    more = set(here.split()) - set(by_site)
    assert "_cdn_fallback_start" in more
    # sitecustomize and the like are site.py's to look for, and what they load is not ours
    assert not {name for name in more if name.partition(".")[0] in ("cdn_fallback", "typing", "__future__")}


def test_buildout_is_hooked_too(venv: Venv, tmp_path: Path) -> None:
    write(tmp_path, {"zc/__init__.py": "", "zc/buildout/__init__.py": "", "zc/buildout/buildout.py": "VALUE = 1\n"})
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from cdn_fallback import buildout_ext as ours; "
        "ours.hook = lambda module: print('hooked', module.VALUE); "
    )
    assert venv.says(code + "import zc.buildout.buildout") == ["hooked 1"]
    assert venv.says(code + "import zc.buildout.buildout", CDN_FALLBACK_DISABLE="1") == []


def test_disable_leaves_python_alone(venv: Venv) -> None:
    assert venv.says(SESSION + "print('end')", CDN_FALLBACK_DISABLE="1") == ["end"]
    assert venv.says(SESSION + "print('end')", CDN_FALLBACK_DISABLE="0") == ["session 2", "end"]
    code = "import cdn_fallback.activation as a, sys; a.start(); print(a.Finder in sys.meta_path)"
    assert venv.says(code, CDN_FALLBACK_DISABLE="1") == ["False"]


def test_pip_in_a_zip(venv: Venv, tmp_path: Path) -> None:
    """`python pip.whl/pip install` is a way to run pip; the archive's one loader serves all its modules."""
    archive = tmp_path / "pip.whl"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in PIP.items():
            file.writestr("pip/" + name, text)
    code = f"import sys; sys.path.insert(0, {str(archive)!r}); {SESSION}"
    more = "print(type(session.__loader__).__name__, session.__spec__.loader.get_source(session.__name__)[:5])"
    assert venv.says(code + more) == ["session 2", "zipimporter VALUE"]


def test_pip_by_its_own_runner(venv: Venv) -> None:
    runner = venv.site / "pip" / "__pip-runner__.py"
    done = run(venv.python, str(runner), "install", "x")
    assert (done.stdout.split("\n")[:2], done.stderr) == (
        ["session 2", f"['install', 'x']|{venv.site / 'pip' / '__init__.py'}"],
        "",
    )


def test_the_module_is_left_with_its_own_loader(venv: Venv) -> None:
    code = SESSION + (
        "import inspect, importlib.resources as r; spec = session.__spec__; "
        "print(type(session.__loader__).__name__, spec.loader is session.__loader__); "
        "network = r.files('pip._internal.network'); "
        "print(inspect.getsource(session)[:9], network.joinpath('session.py').is_file())"
    )
    assert venv.says(code)[1:] == ["SourceFileLoader True", "VALUE = 1 True"]


def test_a_spec_that_is_only_looked_at_works_as_any(venv: Venv) -> None:
    """pkgutil, runpy and inspect ask loaders for data, code and source, and may copy or pickle a spec."""
    code = (
        "import copy, pickle; from importlib.util import find_spec, module_from_spec; "
        "spec = find_spec('pip._internal.network.session'); name, loader = spec.name, spec.loader; "
        "print(loader.get_source(name)[:5], loader.is_package(name), loader.get_data(spec.origin)[:5]); "
        "print(*(type(x).__name__ for x in (pickle.loads(pickle.dumps(spec)).loader, copy.copy(loader)))); "
        "print(hasattr(loader, 'nothing')); "
        "module = module_from_spec(spec); spec.loader.exec_module(module)"
    )
    assert venv.says(code) == [
        "VALUE False b'VALUE'",
        "SourceFileLoader SourceFileLoader",
        "False",
        "session 2",
    ]


def test_a_reloaded_module_is_hooked_again(venv: Venv) -> None:
    assert venv.says(SESSION + "import importlib; importlib.reload(session)") == ["session 2", "session 2"]


def test_start_is_harmless_twice_and_stop_undoes_it(venv: Venv) -> None:
    code = (
        "import sys; from cdn_fallback.activation import start, stop; n = len(sys.meta_path); "
        "start(); start(); print(len(sys.meta_path) - n); stop(); stop(); print(len(sys.meta_path) - n); "
    )
    assert venv.says(code + SESSION) == ["1", "0"]
    assert venv.says(code + "start(); " + SESSION) == ["1", "0", "session 2"]


def test_start_after_pip_was_imported_hooks_at_once(venv: Venv) -> None:
    code = "from cdn_fallback.activation import start, stop; stop(); " + SESSION + "print('late'); start()"
    assert venv.says(code) == ["late", "session 2"]


def test_a_failing_hook_is_told_once_and_pip_goes_on(venv: Venv) -> None:
    code = "import pip._internal.network.download, pip._internal.build_env; print('on')"
    done = run(venv.python, "-c", code)
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert done.stderr == (
        "cdn-fallback: the hook on pip._internal.network.download did not take "
        "(ValueError: no\\x1b[31m such thing); going on without it, see `cdn-fallback doctor`\n"
    )


def test_a_module_that_fails_by_itself_is_not_ours(venv: Venv) -> None:
    done = run(venv.python, "-c", "import pip._internal.utils.misc")
    assert done.returncode == 1
    assert done.stderr.endswith("ImportError: of its own\n")
    assert "cdn-fallback" not in done.stderr


def test_an_uninstalled_package_leaves_silence(tmp_path: Path) -> None:
    """`pip uninstall` does not know the files of `enable`: they must not matter without the package."""
    venv = make(tmp_path)
    write(venv.site / "pip", PIP)
    switch.enable(venv.site)
    shutil.rmtree(venv.site / "cdn_fallback")
    (entry,) = (venv.site / "cdn_fallback.start").read_text().split()
    # What PEP 829 makes of a .start file, for the Pythons that do not know it.
    code = SESSION + f"import pkgutil; pkgutil.resolve_name({entry!r})(); print('end')"
    assert venv.says(code) == ["end"]


def test_the_entry_of_the_start_file_starts(venv: Venv) -> None:
    entry = (venv.site / "cdn_fallback.start").read_text().strip()
    code = "import sys; sys.meta_path.pop(0); import pkgutil; " + SESSION + "del sys.modules[session.__name__]; "
    assert venv.says(code + f"pkgutil.resolve_name({entry!r})(); " + SESSION) == ["session 2"]
