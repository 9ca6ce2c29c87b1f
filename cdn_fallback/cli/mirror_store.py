"""`cdn-fallback mirror verify | restore | prune`: what keeps a store well, and what brings it back.

Exit codes as those of `cli.mirror`; 3 also says that something is not as it should be.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdn_fallback.cli.mirror_open import PARTLY, opened
from cdn_fallback.cli.output import Unusable, complain, say, say_json
from cdn_fallback.cli.progress import progress
from cdn_fallback.errors import printable

if TYPE_CHECKING:
    from cdn_fallback.mirror.verify import Finding

_SHOWN = 100  # findings that are told a line each


def add_arguments(add: Any) -> None:
    """The commands; `add` is (name, help, run) -> parser."""
    verify = add("verify", "hold the store against the catalog", _verify)
    verify.add_argument("--quick", action="store_true", help="by the store's listing only: read no object")
    how = verify.add_mutually_exclusive_group()
    how.add_argument("--repair", action="store_true", help="put again what is missing or wrong")
    how.add_argument("--adopt", action="store_true", help="the catalog is lost: make it anew from the store")
    restore = add("restore", "bring back files, and a lost catalog, from the store", _restore)
    restore.add_argument("--to", type=Path, metavar="FOLDER", help="default: the path of a source that is a folder")
    prune = add("prune", "delete what nothing refers to, when its time has come", _prune)
    prune.add_argument("--dry-run", action="store_true", help="tell what would be deleted, and do nothing")


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.adopt:
        return _adopt(arguments)
    told: dict[str, Any] = {}
    with opened(arguments) as mirror, progress() as shown:
        verified = mirror.verify(shown, quick=arguments.quick)
        told["verify"] = {"objects": verified.objects, "findings": [one._asdict() for one in verified.findings]}
        if not arguments.json:
            _complain_of(verified.findings)
        mended = arguments.repair and verified.to_mend
        if mended:
            report = mirror.repair(verified, time.time(), shown)
            told["repair"] = {"puts": report.puts, "bytes": report.bytes, "held": [list(one) for one in report.held]}
    if arguments.json:
        say_json(told)
    else:
        line = f"verified: {verified.objects} objects, "
        line += f"{len(verified.findings)} findings" if verified.findings else "all as they should be"
        say(line + (f"; {told['repair']['puts']} put again" if mended else ""))
    if mended:
        for name, why in told["repair"]["held"]:
            complain(printable(f"not mended: {name}: {why}"))
    left = told["repair"]["held"] if mended else [one for one in verified.findings if one.kind != "extra"]
    return PARTLY if left else 0


def _complain_of(findings: tuple[Finding, ...]) -> None:
    for one in findings[:_SHOWN]:
        complain(printable(f"{one.kind}: {one.key} {one.what}"))
    if len(findings) > _SHOWN:
        complain(f"and {len(findings) - _SHOWN} more; --json tells them all")


def _adopt(arguments: argparse.Namespace) -> int:
    with opened(arguments) as mirror, progress() as shown:
        made = mirror.adopt(time.time(), shown)
    _say_adopted(made, arguments.json)
    return PARTLY if made.left_out else 0


def _say_adopted(made: Any, json: bool) -> None:
    if json:
        say_json({"adopt": made._asdict()})
        return
    for name in made.left_out[:_SHOWN]:
        complain(printable(f"left out, as nobody can read its page: {name}; the next sync brings it back"))
    if len(made.left_out) > _SHOWN:
        complain(f"and {len(made.left_out) - _SHOWN} more; --json tells them all")
    line = f"adopted: {made.projects} projects, {made.files} files; {made.objects} objects are as they should be"
    if made.left_out:
        line += f", {len(made.left_out)} projects are left out"
    if made.differ:
        line += f", {made.differ} are put again by the next publish"
    if made.strangers:
        line += f", {made.strangers} that nothing refers to are deleted when no cache has them"
    say(line)


def _restore(arguments: argparse.Namespace) -> int:
    told: dict[str, Any] = {}
    with opened(arguments) as mirror, progress() as shown:
        folder = arguments.to or mirror.folder
        if folder is None:
            raise Unusable("the source is no folder; name one for the files with --to FOLDER")
        if not mirror.has_published:
            made = mirror.adopt(time.time(), shown)
            told["adopt"] = made._asdict()
            if not arguments.json:
                _say_adopted(made, json=False)
        found = mirror.restore(folder, shown)
    told["restore"] = {**found._asdict(), "failed": [one._asdict() for one in found.failed]}
    if arguments.json:
        say_json(told)
    else:
        for one in found.failed:
            complain(printable(f"not restored: {one.key}: {one.why}"))
        say(
            printable(f"restored: {found.files} files into {folder}, each with the hash that its page promises")
            + (f"; {found.there} were there" if found.there else "")
            + (f"; {len(found.failed)} could not be" if found.failed else "")
        )
    return PARTLY if found.failed or told.get("adopt", {}).get("left_out") else 0


def _prune(arguments: argparse.Namespace) -> int:
    with opened(arguments) as mirror, progress() as shown:
        found = mirror.strangers(time.time(), note=not arguments.dry_run)
        deletes = 0 if arguments.dry_run else mirror.delete_due(time.time(), shown).deletes
        due = mirror.due(time.time()) if arguments.dry_run else 0
    if arguments.json:
        say_json({"prune": {"deletes": deletes or due, "waiting": found.waiting - deletes, "new": list(found.new)}})
        return 0
    for key in found.new[:_SHOWN]:
        complain(printable(f"nothing refers to it, and nobody knows it: {key}"))
    if len(found.new) > _SHOWN:
        complain(f"and {len(found.new) - _SHOWN} more; --json tells them all")
    line = f"would prune: {due} deleted" if arguments.dry_run else f"pruned: {deletes} deleted"
    if found.new:
        line += f", {len(found.new)} that nobody knows are deleted when their time has come"
    if found.waiting - deletes - due > 0:
        line += f", {found.waiting - deletes - due} wait until no cache has them"
    say(line)
    return 0
