"""The named tuples of the package are those of ``typing``, made faster."""
import copy
import inspect
import pickle
import typing

import pytest

from xstream.tuples import NamedTuple


class Ours(NamedTuple):
    """A record."""

    #: Comment.
    first: int
    second: str = "two"
    third: "typing.Optional[int]" = None

    def both(self):
        return self.first, self.second


class Theirs(typing.NamedTuple):
    first: int
    second: str = "two"
    third: "typing.Optional[int]" = None


class Derived(Ours):
    """Adds a method only."""

    def total(self):
        return self.first


CALLS = [((1,), {}), ((1, "x"), {}), ((1, "x", 3), {}), ((), {"first": 1}), ((1,), {"third": 5}),
         ((), {"third": 3, "first": 1, "second": "s"})]
WRONG = [((), {}), ((1, "x", 3, 4), {}), ((1,), {"first": 1}), ((1,), {"other": 2}), ((), {"second": "x"})]


@pytest.mark.parametrize("values, named", CALLS)
def test_instances_are_the_same(values, named):
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)
    assert ours == theirs and tuple(ours) == tuple(theirs) and hash(ours) == hash(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours._asdict() == theirs._asdict() and list(ours._asdict()) == list(Ours._fields)
    assert (ours.first, ours.second, ours.third) == (theirs.first, theirs.second, theirs.third)


@pytest.mark.parametrize("values, named", WRONG)
def test_wrong_arguments_are_refused(values, named):
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*values, **named)


def test_class_attributes_are_the_same():
    assert Ours._fields == Theirs._fields
    assert Ours._field_defaults == {"second": "two", "third": None}
    assert typing.get_type_hints(Ours) == typing.get_type_hints(Theirs)
    # Python 3.6 writes it without the spaces.
    assert str(inspect.signature(Ours)).replace(" ", "").startswith("(first:int,second:str='two',third:")


def test_instances_have_no_other_attributes():
    record = Ours(1)
    for name in ("first", "other"):
        with pytest.raises(AttributeError):
            setattr(record, name, 2)


def test_copies():
    record = Ours(1, "x", 3)
    assert record._replace(second="y", third=None) == (1, "y", None)
    assert type(record._replace()) is Ours is type(Ours._make([1, 2, 3]))
    with pytest.raises(ValueError, match="other"):
        record._replace(other=1)
    with pytest.raises(TypeError):
        Ours._make([1])
    for copied in [copy.copy(record), copy.deepcopy(record)] + [
            pickle.loads(pickle.dumps(record, number)) for number in range(pickle.HIGHEST_PROTOCOL + 1)]:
        assert copied == record and type(copied) is Ours


def test_subclasses_have_the_same_fields():
    assert Derived(5).total() == 5 and Derived(5).both() == (5, "two")
    assert Derived._fields == Ours._fields and repr(Derived(5)) == "Derived(first=5, second='two', third=None)"


def test_a_class_without_fields():
    class Empty(NamedTuple):
        """No fields."""

    assert Empty() == () and Empty._fields == () and repr(Empty()) == "Empty()"
