"""The built wheel in real pips, against real servers on loopback addresses."""
