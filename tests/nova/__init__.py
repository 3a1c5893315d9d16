"""Tests on Nova's own code, run with the Python of an environment that has it: make test-nova."""

# Before anything else of Nova or oslo: it patches the standard library, and what was imported earlier would share among
# all green threads what is meant to be each thread's own (a database transaction, for one).
import nova.tests.functional  # noqa: F401
