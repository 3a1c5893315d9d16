"""Tests on Nova's own code, run with the Python of an environment that has it: make test-nova."""
