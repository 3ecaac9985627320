"""``contextmanager`` and ``suppress`` for modules that programs load at start-up.

They do what contextlib's do, which type checkers see instead; loading contextlib takes several times as long.
"""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import contextmanager as contextmanager
    from contextlib import suppress as suppress
else:
    class suppress:
        """A context manager that ends its block at an error of the given classes, without raising it."""

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            return None

        def __exit__(self, kind, error, trace):
            return kind is not None and issubclass(kind, self._kinds)

    class _Generated:
        """The context manager of a generator that yields once."""

        def __init__(self, generator):
            self._generator = generator

        def __enter__(self):
            return next(self._generator)

        def __exit__(self, kind, error, trace):
            if kind is None:
                if next(self._generator, self) is not self:
                    raise RuntimeError("the generator of a context manager yielded twice")
                return False
            try:
                self._generator.throw(error)
            except StopIteration as stop:
                return stop is not error  # the generator has handled the error
            except BaseException as raised:
                # A StopIteration leaves a generator as the cause of a RuntimeError.
                if raised is not error and not (isinstance(error, StopIteration) and raised.__cause__ is error):
                    raise
                raised.__traceback__ = trace
                return False
            raise RuntimeError("the generator of a context manager yielded twice")

    def contextmanager(function):
        """Make a function that returns a context manager from a generator function that yields once."""
        def made(*values, **named):
            return _Generated(function(*values, **named))

        made.__doc__, made.__module__, made.__wrapped__ = function.__doc__, function.__module__, function
        made.__name__, made.__qualname__ = function.__name__, function.__qualname__
        return made
