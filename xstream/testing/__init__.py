"""Conformance tests for Guest backends.

:class:`GuestTests` is a class of tests to derive from, for pytest or unittest; :func:`check_guest` runs the same tests
without a test framework. docs/backends.md shows how to use them.
"""
from xstream.testing.checked import CheckedGuest, InjectedFailure, Violation
from xstream.testing.kit import GuestTests, check_guest

__all__ = ["CheckedGuest", "GuestTests", "InjectedFailure", "Violation", "check_guest"]
