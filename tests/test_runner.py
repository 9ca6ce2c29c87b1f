"""pip starts itself in another interpreter through `_runner.py`; that interpreter knows nothing of us."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.environments import PACKAGE, PIP, install, run, write

PYTHON = Path(sys.executable)
VARIABLE = "_CDN_FALLBACK_PIP_RUNNER"

# Tells all that a script can see of how it was started.
PROBE = """
import os, sys
print(__name__, __file__, sys.argv, sys.path[0], sep="|")
print(os.environ.get("_CDN_FALLBACK_PIP_RUNNER"))
try:
    import sibling
except ImportError:
    print("no sibling")
"""


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """Our runner, in an environment with another package beside it."""
    install(tmp_path / "env")
    write(tmp_path / "env", {"sibling.py": ""})
    return tmp_path / "env" / "cdn_fallback" / "_runner.py"


def test_pip_runs_in_the_other_interpreter_with_the_hooks(runner: Path, tmp_path: Path) -> None:
    write(tmp_path / "there" / "pip", PIP)
    original = tmp_path / "there" / "pip" / "__pip-runner__.py"
    done = run(PYTHON, "-I", "-S", str(runner), "install", "x", **{VARIABLE: str(original)})
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == [
        "session 2",
        f"['install', 'x']|{tmp_path / 'there' / 'pip' / '__init__.py'}",
    ]


def test_the_original_sees_what_it_would_see_by_itself(runner: Path, tmp_path: Path) -> None:
    write(tmp_path / "there", {"probe.py": PROBE})
    probe = tmp_path / "there" / "probe.py"
    alone = run(PYTHON, str(probe), "a", "b")
    through = run(PYTHON, str(runner), "a", "b", **{VARIABLE: str(probe)})
    assert through.stderr == ""
    assert through.stdout == alone.stdout
    assert "no sibling" in through.stdout


@pytest.mark.parametrize("text", ["raise ValueError('broken')", "def start(): raise ValueError('broken')"])
def test_our_own_failure_does_not_stop_pip(runner: Path, tmp_path: Path, text: str) -> None:
    write(tmp_path / "there", {"probe.py": PROBE})
    (runner.parent / "activation.py").write_text(text)
    done = run(PYTHON, str(runner), **{VARIABLE: str(tmp_path / "there" / "probe.py")})
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exit_code_is_that_of_the_original(runner: Path, tmp_path: Path) -> None:
    write(tmp_path, {"probe.py": "raise SystemExit(7)"})
    assert run(PYTHON, str(runner), **{VARIABLE: str(tmp_path / "probe.py")}).returncode == 7


@pytest.mark.parametrize("value", [None, "", "/does/not/exist"])
def test_without_the_original_it_says_what_to_do(runner: Path, value: str | None) -> None:
    done = run(PYTHON, str(runner), **({} if value is None else {VARIABLE: value}))
    assert done.returncode == 1
    assert done.stderr.startswith(f"cdn-fallback: _runner.py is for pip to start, but {VARIABLE} names no runner")
    assert "python -m pip" in done.stderr


def test_old_pythons_can_read_it() -> None:
    """pip's runner says that the Python is too old; a syntax error of ours must not come before it."""
    ast.parse((PACKAGE / "_runner.py").read_text(), feature_version=(3, 7))
