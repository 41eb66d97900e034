"""Timings of dynlm on this machine, each beside the least time that the machine allows: `make bench`."""
