"""What Cython's code for the limited API looks up in inspect, collections.abc and types: see limited_api.h."""
from _collections_abc import Mapping as Mapping
from _collections_abc import Sequence as Sequence

# Flags of code objects, from CPython's Include/cpython/code.h.
CO_OPTIMIZED, CO_NEWLOCALS, CO_VARARGS, CO_VARKEYWORDS = 0x01, 0x02, 0x04, 0x08
CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200


class _Class:
    def method(self) -> None:
        pass


# Not of compile()'s result: its first call takes longer than loading most modules.
CodeType = type(_Class.method.__code__)
MethodType = type(_Class().method)


def __getattr__(name: str) -> object:
    """Anything else, which another version of Cython may look for."""
    import collections.abc
    import inspect
    import types
    for module in (inspect, collections.abc, types):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
