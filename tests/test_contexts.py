"""The context managers of the package behave as contextlib's."""
import contextlib
import inspect

import pytest

from xstream import contexts

BOTH = pytest.mark.parametrize("module", [contexts, contextlib], ids=["ours", "contextlib"])


@BOTH
def test_suppress(module):
    with module.suppress(ValueError, OSError):
        raise FileNotFoundError
    with module.suppress(ValueError):
        pass
    with pytest.raises(KeyError), module.suppress(ValueError):
        raise KeyError


def made(module, seen, handled=()):
    @module.contextmanager
    def manager(value, *, more=1):
        """Yields the value."""
        try:
            yield value + more
        except handled:
            seen.append("handled")
        finally:
            seen.append("left")
    return manager


@BOTH
def test_a_block_that_ends(module):
    seen = []
    with made(module, seen)(1, more=2) as value:
        assert value == 3 and seen == []
    assert seen == ["left"]


@BOTH
@pytest.mark.filterwarnings("ignore:generator 'manager' raised StopIteration")  # on Python 3.6
@pytest.mark.parametrize("kind", [ValueError, StopIteration, KeyboardInterrupt, GeneratorExit])
def test_an_error_leaves_the_block(module, kind):
    seen, error = [], kind("text")
    with pytest.raises(kind) as caught, made(module, seen)(1):
        raise error
    assert caught.value is error and seen == ["left"]
    assert "raise error" in str(caught.traceback[-1].statement)


@BOTH
def test_an_error_is_handled(module):
    seen = []
    with made(module, seen, ValueError)(1):
        raise ValueError
    assert seen == ["handled", "left"]


@BOTH
def test_another_error_replaces_it(module):
    @module.contextmanager
    def replacing():
        try:
            yield
        except ValueError:
            raise KeyError("other")

    with pytest.raises(KeyError, match="other") as caught, replacing():
        raise ValueError("text")
    assert isinstance(caught.value.__context__, ValueError)


@BOTH
def test_yielding_twice_is_an_error(module):
    @module.contextmanager
    def twice():
        with contextlib.suppress(ValueError):
            yield 1
        yield 2

    for raised in (False, True):
        with pytest.raises(RuntimeError), twice():
            if raised:
                raise ValueError


def test_functions_keep_their_names():
    function = made(contexts, [])
    assert function.__name__ == "manager" and function.__doc__ == "Yields the value."
    assert list(inspect.signature(function).parameters) == ["value", "more"]
