"""What the mirror's commands say of a sync and of a publish: for people a line, for machines JSON."""

from __future__ import annotations

import time
from typing import Any

from cdn_fallback.cli.output import complain, say, say_json
from cdn_fallback.errors import printable


def complain_of_rollback(number: int | None) -> bool:
    """Whether the site shows an earlier generation, which is then told: nobody is to wonder why nothing is new."""
    if number is not None:
        forward = "`cdn-fallback mirror rollback --forward`"
        complain(f"the site is rolled back to generation {number}: nothing newer is published until {forward}")
    return number is not None


def tell_generations(mirror: Any, json: bool) -> None:
    """What can be rolled back to."""
    found = mirror.generations()
    if json:
        say_json({"generations": [one._asdict() for one in found], "rolled_back": mirror.rolled_back})
        return
    for one in found:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.at))
        line = f"{one.number}  {moment}  {one.projects} projects" + ("  is published" if one.current else "")
        say(line + ("  rolled back to" if one.number == mirror.rolled_back else ""))
    if not found:
        say("nothing was published yet")


def told_sync(report: Any, trees: Any) -> dict[str, Any]:
    """What a sync found, for JSON."""
    found: dict[str, Any] = {key: value for key, value in report._asdict().items() if isinstance(value, int)}
    found["rejected"] = [{"project": project, "what": one.what, "why": one.why} for project, one in report.rejected]
    found["rejected"] += [{"project": "", "what": path, "why": "has a name that is no key"} for path in trees.rejected]
    found["failed"] = [{"project": one.name, "why": one.why} for one in report.failed]
    found["static_changed"], found["static_removed"] = trees.changed, trees.removed
    return found


def told_publish(report: Any) -> dict[str, Any]:
    """What a publish did or would do, for JSON."""
    found = report._asdict()
    found.pop("parts")
    found["held"] = [{"project": one.name, "why": one.why} for one in report.held]
    return dict(found)


def tell(told: dict[str, Any], json: bool) -> None:
    """What a run did, of `told_sync` and `told_publish`."""
    if json:
        say_json(told)
        return
    for one in told.get("sync", {}).get("rejected", []):
        _complain(f"not published: {one['what']} {one['why']}")
    for one in told.get("sync", {}).get("failed", []):
        _complain(f"not read, left as it was: {one['project']}: {one['why']}")
    for one in told.get("publish", {}).get("held", []):
        _complain(f"not published, left as it was: {one['project']}: {one['why']}")
    lines = []
    if "sync" in told:
        lines.append(_line_sync(told["sync"]))
    if "publish" in told:
        lines.append(line_publish(told["publish"]))
    if lines:
        say("; ".join(lines))


def _complain(line: str) -> None:
    """One line, whatever a name in it holds: an end of line would make another one of ours."""
    complain(printable(line))


def _line_sync(told: dict[str, Any]) -> str:
    line = f"synced: {told['changed']} projects changed, {told['removed']} removed"
    line += f" (files: {told['files_added']} new, {told['files_changed']} changed, {told['files_removed']} removed)"
    if told["static_changed"] or told["static_removed"]:
        line += f", beside the index {told['static_changed']} files changed, {told['static_removed']} removed"
    if told["waiting"]:
        line += f", {told['waiting']} files still being written are left for the next run"
    for key, word in (("rejected", "not publishable"), ("failed", "not read")):
        if told[key]:
            line += f", {len(told[key])} {word}"
    return line


def line_publish(told: dict[str, Any]) -> str:
    """What a publish did, for people."""
    if not told["puts"] and not told["deletes"] and not told["held"]:
        return "published: nothing new"
    line = f"published: {told['puts']} objects ({_amount(told['bytes'])}) of {told['projects']} projects"
    if told["deletes"]:
        line += f", {told['deletes']} deleted"
    if told["doomed"]:
        line += f", {told['doomed']} to be deleted when no cache has them"
    if told["invalidations"]:
        line += f", {len(told['invalidations'])} paths for caches to forget"
    if told["held"]:
        line += f", {len(told['held'])} not published"
    return line


def _amount(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
