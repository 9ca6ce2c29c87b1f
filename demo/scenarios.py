"""What breaks, one thing after the other, and who is left to serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from demo.runs import Run
from demo.tools import BASE, paths_of
from tests.rig.dists import wheel
from tests.rig.picture import EDGES, REDIRECTORS, Picture

ORIGIN = ("origin",)
# What the origin has later than the mirror; one for each tool, so that it can be told who asked.
NEWS = {"pip": wheel("just-released-one"), "buildout": wheel("just-released-two")}


@dataclass(frozen=True)
class Seen:
    """What the runs with cdn-fallback met.

    `served` is who gave which paths, `knocked` are the blackholes that they tried to reach, `known` those that
    earlier runs with the same home had tried.
    """

    picture: Picture
    runs: Mapping[str, Run]
    served: Mapping[str, list[str]]
    knocked: set[str]
    known: set[str]


Check = Callable[[Seen], str]  # what was not as told, or nothing


@dataclass(frozen=True)
class Scenario:
    """What is done to a picture that is whole, and how a run shows that it was done.

    Where chance decides whether a tool meets the fault, there are several `tries`. Each has a fresh home directory,
    unless `remembering`: then it is that of the scenario before.

    :param serve: who may serve with cdn-fallback, and does; nobody else
    :param warm: whether the edges have everything in their caches; otherwise they have nothing
    :param plain: whether the plain tools are run, too
    :param works: whether they install in spite of it
    :param released: whether what the mirror has not published is installed, too
    :param extends: whether the buildout extends a file of the index
    """

    title: str
    harm: Callable[[Picture], None]
    serve: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    story: str = ""
    warm: bool = False
    plain: bool = True
    released: bool = False
    extends: bool = True
    remembering: bool = False
    tries: int = 1
    works: bool = False


def nothing(picture: Picture) -> None:
    """All is well."""


def killing(*names: str, how: str = "refuse") -> Callable[[Picture], None]:
    """A harm: nobody is there any more."""

    def harm(picture: Picture) -> None:
        for name in names:
            picture.kill(name, "blackhole" if how == "blackhole" else "refuse")

    return harm


def only(*names: str) -> Callable[[Picture], None]:
    """A harm: everybody else refuses."""
    return lambda picture: picture.only(*names)


def release(picture: Picture) -> None:
    """The origin has something new, and the mirror does not run."""
    picture.release(*NEWS.values())


def declared_down(picture: Picture) -> None:
    """The edges are dead, and the operator says so."""
    picture.kill("edge")
    picture.cdn_down()


def back_again(picture: Picture) -> None:
    """As before, and the mirror has caught up."""
    picture.cdn_down(False)
    print(f"    cdn-fallback mirror run: {picture.publish().strip()}")
    picture.cold()


# --- checks ---


def quiet(seen: Seen) -> str:
    """A user sees no line of it without -v."""
    loud = [line for line in seen.runs["pip"].told if line.startswith("WARNING: ")] + seen.runs["buildout"].told
    return f"something was complained of: {loud[0]}" if loud else ""


def knocked(seen: Seen) -> str:
    """It was asked, and did not answer."""
    return "" if seen.knocked else "nobody asked the dead"


def learnt(seen: Seen) -> str:
    """Who was slow is not asked again."""
    return "the dead were asked again" if seen.knocked & seen.known else ""


def refused(*names: str) -> Check:
    """pip, whose attempts can be seen, tried each of these."""

    def check(seen: Seen) -> str:
        told = seen.runs["pip"].told
        missed = [name for name in names if not any(f"{name} did not connect" in line for line in told)]
        return f"nobody asked {' and '.join(missed)}" if missed else ""

    return check


def from_caches(seen: Seen) -> str:
    """The edges had it all."""
    asked = [one.path for name in EDGES for one in seen.picture.requests(name) if one.cache == "miss"]
    return f"{asked[0]} was in no cache" if asked else ""


def from_bucket(seen: Seen) -> str:
    """The edges had nothing."""
    return "" if seen.picture.requests("bucket") else "the bucket was not asked"


def extends_at_origin(seen: Seen) -> str:
    """What no hash is known of is not taken from a CDN that no redirector names."""
    return "" if seen.served.get("origin") == [BASE] else f"{BASE} alone was to come from the origin"


def found_at_origin(seen: Seen) -> str:
    """What is new there, and nothing else."""
    new = tuple(paths_of(*NEWS.values()))
    stray = [path for path in seen.served.get("origin", []) if not path.startswith(new)]
    return f"the origin was needed for {stray[0]}" if stray else ""


SCENARIOS = (
    Scenario("all is well", nothing, EDGES, (quiet, from_bucket), works=True),
    Scenario(
        "a redirector blackholed",
        killing("redirector1", how="blackhole"),
        EDGES,
        plain=False,
        story="one of three: chance decides whether it is asked first",
    ),
    Scenario(
        "two of three redirectors blackholed",
        killing("redirector1", "redirector2", how="blackhole"),
        EDGES,
        (knocked,),
        tries=6,
    ),
    Scenario(
        "the same again, with what was learnt",
        killing("redirector1", "redirector2", how="blackhole"),
        EDGES,
        (learnt,),
        plain=False,
        remembering=True,
        tries=3,  # on a very busy machine the living one, too, may need longer than a race waits for it
    ),
    Scenario("an edge blackholed", killing("edge1", how="blackhole"), ("edge2",), (knocked,), tries=6),
    Scenario(
        "all redirectors dead",
        killing("redirector"),
        (*EDGES, "origin"),
        (refused(*REDIRECTORS), extends_at_origin),
        story="what extends= names has no hash: it is taken from the index or the origin, from nobody else",
    ),
    Scenario(
        "the bucket dead",
        killing("bucket"),
        EDGES,
        (from_caches,),
        story="the edges have all of it in their caches",
        warm=True,
        works=True,
    ),
    Scenario("both edges dead", killing("edge"), ORIGIN, (refused(*EDGES),)),
    Scenario("the origin dead", killing("origin"), EDGES, (quiet, from_bucket), works=True),
    Scenario(
        "a release that the mirror lacks",
        release,
        (*EDGES, "origin"),
        (found_at_origin,),
        story="new at the origin: one project for pip, one for buildout; the mirror has not run since",
        released=True,
    ),
    Scenario(
        "both edges dead, the CDN declared down",
        declared_down,
        ORIGIN,
        story="the redirectors got new configurations, by `cdn-fallback redirectors --cdn-down`",
        works=True,
    ),
    Scenario("only the origin left", only("origin"), ORIGIN, (refused(*REDIRECTORS, *EDGES),)),
    Scenario(
        "only an edge and its bucket left",
        only("edge2", "bucket"),
        ("edge2",),
        (refused(*REDIRECTORS), from_bucket),
        story="nobody is left who may serve a file without a hash: this buildout has no extends=",
        extends=False,
    ),
    Scenario(
        "everything healed",
        back_again,
        EDGES,
        (quiet, from_bucket),
        released=True,
        works=True,
    ),
)
