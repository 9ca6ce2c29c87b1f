"""Many at once over one memory: nobody fails, nothing is corrupted, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path

from cdn_fallback.health import FORMAT, Record
from tests.rig.beside import Running
from tests.rig.dists import wheel
from tests.rig.faults import Refuse, Status
from tests.rig.pips import PipEnv
from tests.rig.scene import CDN, Scene, scene
from tests.rig.site import Site

SMALL = wheel("demo-small")
PIPS, VICTIMS = 16, 6

_LEARN = """
import sys
from itertools import count
from pathlib import Path
from cdn_fallback.health import Health
path, name, turns = sys.argv[1:]
for turn in range(int(turns)) if turns else count():
    health = Health(Path(path))
    health.load()
    health.failed(f"https://{name}.example/", costly=True)
    health.saw_serial(f"https://index.example/simple/{name}/", turn + 1)
    health.save()
"""


def test_sixteen_pips_share_one_memory_while_others_are_killed(newest_pip: PipEnv, tmp_path: Path) -> None:
    home, targets = tmp_path / "home", [tmp_path / f"t{number}" for number in range(PIPS)]
    home.mkdir()
    health = home / ".cache" / "cdn-fallback" / "health.json"
    chance = random.Random(16)
    with scene(tmp_path, Site.of(SMALL)) as pool, contextlib.ExitStack() as stack:
        pool.fault("redirector1", Refuse())
        pool.fault("cdn", Status(503, headers=(("Retry-After", "3600"),)))

        def start(target: Path) -> Running:
            """A pip that installs into `target`, whose name stands in its User-Agent."""
            env = pool.environment | {"PIP_USER_AGENT_USER_DATA": target.name}
            arguments = ("install", *pool.arguments(), "--no-cache-dir", "--target", str(target), "demo-small")
            running = Running.start(newest_pip, *arguments, env=env, config=pool.config, home=home)
            stack.callback(running.kill)
            return running

        crowd = [start(target) for target in targets]
        # when one is killed: after so many of its requests
        doomed = {tmp_path / f"victim{number}": chance.randrange(5) for number in range(VICTIMS)}
        victims = {target: start(target) for target in doomed}
        written = 0
        while not all(running.ended for running in crowd):
            written += _checked(health) is not None
            for target, running in victims.items():
                if not running.ended and _requests(pool, target) >= doomed[target]:
                    running.kill()
            _wait_a_little(crowd)
        for running in victims.values():
            running.kill()

        said = "\n".join(running.said.read_text() for running in crowd)
        assert [running.process.returncode for running in crowd] == [0] * PIPS, said
        assert all(SMALL.installed_in(target) for target in targets)
        assert "Traceback" not in said
        assert written
        killed = {running.process.pid for running in victims.values() if running.process.returncode == -9}
        assert len(killed) >= VICTIMS // 2
        assert _writers_of_leftovers(health) <= killed
        assert pool.base(CDN) in (_checked(health) or {})

        pool.heal()
        target = tmp_path / "next"
        result = pool.pip(newest_pip, "install", "--no-cache-dir", "--target", str(target), "demo-small", home=home)
        assert result.code == 0, result.output
        assert SMALL.installed_in(target)
        assert result.stderr == ""
        assert not any(server.requests for server in pool.group("cdn")), "it asked to be left alone for an hour"


def test_the_memory_is_whole_at_every_moment_whoever_is_killed(tmp_path: Path) -> None:
    health = tmp_path / "health.json"
    chance, seen = random.Random(4), set[str]()
    with contextlib.ExitStack() as stack:

        def learn(name: str, turns: str) -> subprocess.Popen[bytes]:
            """A process that learns and saves so many times, or until it is killed."""
            process = subprocess.Popen([sys.executable, "-c", _LEARN, str(health), name, turns])
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        writers = [learn(f"writer{number}", "150") for number in range(3)]
        victims = [learn(f"victim{number}", "") for number in range(3)]
        alive = list(victims)
        while any(writer.poll() is None for writer in writers):
            seen |= (_checked(health) or {}).keys()
            if alive and seen and chance.random() < 0.02:
                alive.pop().kill()

    assert [writer.returncode for writer in writers] == [0] * len(writers)
    assert seen >= {f"https://writer{number}.example/" for number in range(len(writers))}
    assert _writers_of_leftovers(health) <= {victim.pid for victim in victims}
    assert _checked(health)


def _requests(pool: Scene, target: Path) -> int:
    """How many the pip of `target` has made."""
    everything = (request for server in pool.servers.values() for request in server.requests)
    return sum(f'"user_data":"{target.name}"' in (request.header("User-Agent") or "") for request in everything)


def _wait_a_little(crowd: list[Running]) -> None:
    with contextlib.suppress(StopIteration, subprocess.TimeoutExpired):
        next(running.process for running in crowd if not running.ended).wait(0.01)


def _checked(health: Path) -> dict[str, Record] | None:
    """The records in the file, which must be whole; ``None`` while there is no file."""
    try:
        content = health.read_bytes()
    except FileNotFoundError:
        return None
    data = json.loads(content)
    assert data.keys() == {"format", "records", "serials"} and data["format"] == FORMAT
    assert all(isinstance(serial, int) for serial in data["serials"].values())
    return {key: Record(**fields) for key, fields in data["records"].items()}


def _writers_of_leftovers(health: Path) -> set[int]:
    """The ids of the processes whose temporary files lie beside `health`."""
    return {int(path.name.split(".")[2]) for path in health.parent.iterdir() if path != health}
