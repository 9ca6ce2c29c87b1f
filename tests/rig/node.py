"""node, which runs JavaScript: a function of CloudFront's for many requests in one process, and tests of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from types import TracebackType
from typing import Any

# CloudFront Functions run in strict mode, with no `require` and one argument.
_LOOP = """
const vm = require('node:vm');
const handler = vm.runInNewContext('"use strict";' + process.argv[1] + ';handler');
require('node:readline').createInterface({input: process.stdin}).on('line', function (line) {
  let answer;
  try { answer = {value: handler(JSON.parse(line))}; } catch (error) { answer = {error: String(error.stack)}; }
  process.stdout.write(JSON.stringify(answer) + '\\n');
});
"""


def node() -> str:
    """The binary's path. FileNotFoundError names the package that has it."""
    binary = shutil.which("node")
    if binary is None:
        raise FileNotFoundError("node not found: install the Debian package nodejs")
    return binary


class Function:
    """A function `handler(event)` in the text `source`, in one process while its `with` block runs."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Function:
        command = [node(), "-e", _LOOP, "--", self._source]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with self._process:
            pass

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        """What it returns for the event. AssertionError with its stack where it throws."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(event) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, (answer, event)
        value: dict[str, Any] = answer["value"]
        return value
