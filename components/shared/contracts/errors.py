"""What can go wrong, said in one line: the thing, its value, and the remedy.

One root, so that every entry point prints a failure the same way; the subclasses are the few kinds that a caller
treats differently.
"""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable
from typing import ParamSpec

P = ParamSpec("P")


class PipelineError(Exception):
    """A failure that a person can act on. `str(error)` is one line that names the thing, its value and the remedy."""

    exit_code = 1


class UsageError(PipelineError):
    """The request itself is wrong: an unknown name, a malformed file, a value out of range."""

    exit_code = 2


class CorruptArtifact(PipelineError):
    """An artifact does not match its manifest, or has none."""


class GateError(PipelineError):
    """A check that must not pass by default could not be made: an empty set, a constant score, a judge out of reach."""


def program(main: Callable[P, int]) -> Callable[P, int]:
    """A program's `main`, which returns its exit code; a PipelineError is one line on standard error and its own code."""

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code

    return guarded


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a closed set, with the nearest known name where one is near."""
    names = sorted(str(name) for name in known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {what} {name!r}: {hint}")
