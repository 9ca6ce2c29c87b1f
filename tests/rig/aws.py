"""An `aws` command for scripts: what ours use of it. The real one is 160 MB, and takes a second for each call.

As the real one does, it checks every argument against AWS's own model of the API (botocore) before anything is sent.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_SERVICES = {"s3api": "s3"}

_COMMAND = """\
#!{python} -IS
import json, os, socket, sys
with socket.create_connection({place!r}) as server:
    server.sendall(json.dumps([os.getcwd(), *sys.argv[1:]]).encode() + b"\\n")
    code, out, err = json.loads(server.makefile().readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


class Aws:
    """While its `with` block runs, `folder` has the command; `folder` belongs into a script's PATH.

    :param endpoint: the URL where AWS is
    :param credentials: the environment variables with which to ask there
    """

    def __init__(self, folder: Path, endpoint: str, credentials: Mapping[str, str]) -> None:
        self.folder = folder
        self._endpoint = endpoint
        self._credentials = credentials
        self._clients: dict[str, Any] = {}
        self._listener = socket.socket()

    def __enter__(self) -> Aws:
        self.folder.mkdir(parents=True)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        text = _COMMAND.format(python=sys.executable, place=self._listener.getsockname())
        (self.folder / "aws").write_text(text)
        (self.folder / "aws").chmod(0o755)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as stream:
                stream.write(json.dumps(self._answer(*json.loads(stream.readline()))) + "\n")

    def _answer(self, folder: str, service: str, operation: str, *rest: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        errors: Any = importlib.import_module("botocore.exceptions")
        try:
            answer = self._call(Path(folder), service, operation, rest)
        except (errors.BotoCoreError, errors.ClientError) as error:
            return 255, "", f"\n{error}\n"
        text = "" if answer == {} else f"{answer if isinstance(answer, str | None) else json.dumps(answer)}\n"
        # The real one applies --query to each page of a list: so there is always a page before ours.
        return 0, f"None\n{text}" if operation == "list-distributions" and "--query" in rest else text, ""

    def _call(self, folder: Path, service: str, operation: str, rest: Iterable[str]) -> Any:
        """What is asked for with --query, or all."""
        client = self.client(_SERVICES.get(service, service))
        name = "".join(part.capitalize() for part in operation.split("-"))
        members = client.meta.service_model.operation_model(name).input_shape.members
        shapes = {_option(member): (member, shape) for member, shape in members.items()}
        options = dict(zip(list(rest)[::2], list(rest)[1::2], strict=True))
        query = options.pop("--query", "")
        given = {shapes[option][0]: _value(folder, text, shapes[option][1]) for option, text in options.items()}
        answer = getattr(client, operation.replace("-", "_"))(**given)
        answer.pop("ResponseMetadata", None)
        jmespath: Any = importlib.import_module("jmespath")
        return jmespath.search(query, answer) if query else json.loads(json.dumps(answer, default=str))

    def client(self, service: str) -> Any:
        """boto3's, which repeats nothing."""
        if service not in self._clients:
            boto3, config = (importlib.import_module(name) for name in ("boto3", "botocore.config"))
            self._clients[service] = boto3.client(
                service,
                endpoint_url=self._endpoint,
                region_name=self._credentials["AWS_REGION"],
                aws_access_key_id=self._credentials["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=self._credentials["AWS_SECRET_ACCESS_KEY"],
                config=config.Config(retries={"total_max_attempts": 1}),
            )
        return self._clients[service]


def _option(member: str) -> str:
    """The command's option for a parameter: --if-match for IfMatch."""
    return "-" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in member)


def _value(folder: Path, text: str, shape: Any) -> Any:
    if text.startswith("fileb://"):
        return (folder / text[8:]).read_bytes()
    if text.startswith("file://"):
        text = (folder / text[7:]).read_text("utf-8")
    return json.loads(text) if shape.type_name == "structure" else text
