"""Real pips against a small index whose parts fail: `make demo`."""
