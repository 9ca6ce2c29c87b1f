"""Keep installers working while part of a package index is down.

Nothing but the version: this module is loaded inside pip.
"""

__version__ = "0.1.0.dev0"
