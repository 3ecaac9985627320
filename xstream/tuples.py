"""``NamedTuple`` for modules that the command line loads at start-up.

It does what ``typing.NamedTuple`` does, which type checkers see instead. ``typing`` and ``collections.namedtuple``
take several times as long: they load other modules, and compile code for each class.
"""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    def _by_index(index):
        return property(lambda self: tuple.__getitem__(self, index))

    try:
        from _collections import _tuplegetter  # what collections.namedtuple uses, from Python 3.8 on
    except ImportError:
        _tuplegetter = None

    class _WithoutDict(type):
        """The type of classes whose instances have no attributes besides those of the class."""

        def __new__(kind, name, bases, namespace):
            return super().__new__(kind, name, bases, dict({"__slots__": ()}, **namespace))

    class _Signature:
        """The signature of a class for ``inspect``, made when it is asked for."""

        def __get__(self, instance, owner):
            from inspect import Parameter, Signature
            return Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation,
                                        default=owner._field_defaults.get(name, Parameter.empty))
                              for name, annotation in owner._annotated.items()])

    class NamedTuple(tuple, metaclass=_WithoutDict):
        """Base class of tuples with named fields: the annotations of the subclass, which may have defaults."""

        _fields = ()
        _field_defaults = {}
        _defaults = ()
        _annotated = {}
        __signature__ = _Signature()

        def __init_subclass__(cls):
            super().__init_subclass__()
            if cls._fields:  # a subclass of a class with fields adds methods, not fields
                return
            cls._annotated = getattr(cls, "__annotations__", {})  # before Python 3.10 a class without fields has none
            cls._fields = cls.__match_args__ = tuple(cls._annotated)
            cls._field_defaults = {name: vars(cls)[name] for name in cls._fields if name in vars(cls)}
            cls._defaults = tuple(cls._field_defaults.values())
            for index, name in enumerate(cls._fields):
                setattr(cls, name, _tuplegetter(index, "") if _tuplegetter else _by_index(index))

        def __new__(cls, *values, **named):
            if len(values) != len(cls._fields) or named:
                values = cls._complete(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _complete(cls, values, named):
            """The values of all fields, with those given by name and the defaults."""
            lacking = len(cls._fields) - len(values)
            if not named and 0 < lacking <= len(cls._defaults):  # most often: no names to look up
                return values + cls._defaults[-lacking:]
            rest = cls._fields[len(values):]
            unknown = [name for name in named if name not in rest]
            missing = [name for name in rest if name not in named and name not in cls._field_defaults]
            if len(values) > len(cls._fields) or unknown or missing:
                raise TypeError("{}() takes the fields {}; got {} by position and {} by name".format(
                    cls.__name__, ", ".join(cls._fields), len(values), ", ".join(named) or "none"))
            return values + tuple([named[name] if name in named else cls._field_defaults[name] for name in rest])

        @classmethod
        def _make(cls, values):
            """An instance from an iterable of the values of all fields."""
            values = tuple(values)
            if len(values) != len(cls._fields):
                raise TypeError("expected {} values, got {}".format(len(cls._fields), len(values)))
            return tuple.__new__(cls, values)

        def _replace(self, **named):
            """A copy in which the fields given by name have other values."""
            made = self._make([named.pop(name, value) for name, value in zip(self._fields, self)])
            if named:
                raise ValueError("not a field: " + ", ".join(named))
            return made

        def _asdict(self):
            """Field names to values, in order."""
            return dict(zip(self._fields, self))

        def __repr__(self):
            return "{}({})".format(type(self).__name__, ", ".join(
                "{}={!r}".format(name, value) for name, value in zip(self._fields, self)))

        def __getnewargs__(self):
            return tuple(self)


def kind_of(record: object) -> str:
    """The class of a record, with the module that defines it: "libxc.HvmContext". For tables about records of formats
    whose modules needn't be loaded."""
    kind = type(record)
    return "{}.{}".format(kind.__module__.rpartition(".")[2], kind.__name__)
