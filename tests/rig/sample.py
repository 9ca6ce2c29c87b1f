"""A site of three projects, for tests to which the content does not matter."""

from tests.rig.dists import sdist, wheel
from tests.rig.site import Site

A = wheel("demo-a", requires=["demo.b>=1"])
B = wheel("Demo_B", padding=100_000, requires_python=">=3.8")
S = sdist("demo-s", build_requires=["demo-b>=1"])
SITE = Site.of(A, B, S)
PAGE = "/simple/demo-b/"
FILE = SITE.path(B.filename)
