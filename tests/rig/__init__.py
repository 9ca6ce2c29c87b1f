"""Real servers with programmable faults, and real pips in clean environments, for tests, demo and benchmarks.

A `Site` is content, a `Server` serves it on one address and misbehaves as its `faults` say, `Names` gives
names several addresses without root, `tls.Authority` issues certificates, and `PipEnv` runs a chosen pip.
"""
