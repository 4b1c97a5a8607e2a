"""Our dataclass beside the standard library's: the same classes made by both behave alike."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from sextract import dataclass as ours


def point(make: Any, field: Any) -> Any:
    """A frozen class with a default, a factory, a method and a property."""

    @make.dataclass(frozen=True, slots=True)
    class Point:
        """A place."""

        x: int
        y: float = 2.0
        tags: list[str] = field(default_factory=list)

        def moved(self, dx: int) -> Point:
            return make.replace(self, x=self.x + dx)

        @property
        def norm(self) -> float:
            return self.x * self.x + self.y * self.y

    return Point


BOTH = {"ours": point(ours, ours.field), "original": point(dataclasses, dataclasses.field)}


@ours.dataclass(frozen=True, slots=True)
class Frozen:
    """What crosses a process."""

    a: int
    b: tuple[int, ...] = ()


@ours.dataclass(slots=True, eq=False)
class Open:
    """What changes."""

    a: int
    b: list[int] = ours.field(default_factory=list)


@ours.dataclass
class Plain:
    """Without options."""

    a: int = 1


@ours.dataclass(frozen=True, kw_only=True)
class Named:
    """Without slots, by name alone."""

    a: int = 1
    b: int = 2


def heir(make: Any, field: Any) -> Any:
    """A class that inherits fields, and another default for one."""

    @make.dataclass(slots=True)
    class Base:
        """Two fields."""

        a: int
        b: list[int] = field(default_factory=list)

        def total(self) -> int:
            return self.a + sum(self.b)

    @make.dataclass(slots=True)
    class Heir(Base):
        """One more."""

        b: list[int] = field(default_factory=lambda: [1])
        c: int = 5

    return Heir


HEIRS: list[Callable[[Any], Any]] = [
    lambda p: repr(p(1)).split(".")[-1],
    lambda p: (p(1).total(), p(1, [2], 3).c, p(1, c=4).b),
    lambda p: p.__slots__,
    lambda p: p(1) == p(1),
    lambda p: hash(p(1)),
    lambda p: copy.copy(p(1, [7])).b,
    lambda p: [f.name for f in dataclasses.fields(p)],
    lambda p: p(c=1),
    lambda p: hasattr(p(1), "__dict__"),
]


@pytest.mark.parametrize("way", HEIRS)
def test_heirs_are_alike_too(way: Callable[[Any], Any]) -> None:
    both = heir(ours, ours.field), heir(dataclasses, dataclasses.field)
    assert attempt(way, both[0]) == attempt(way, both[1])


def attempt(way: Callable[[Any], Any], made: Any) -> Any:
    """What comes of it, or the kind of error."""
    try:
        return way(made)
    except Exception as exc:
        return type(exc)


def test_what_it_does_not_know_is_refused() -> None:
    class Late:
        """Does something of its own."""

        a: int

        def __post_init__(self) -> None: ...

    class Shared:
        """Has a value of the class."""

        a: ClassVar[int] = 1

    for cls in (Late, Shared):
        with pytest.raises(TypeError, match="standard library"):
            ours.dataclass(slots=True)(cls)
    with pytest.raises(TypeError):
        ours.dataclass(order=True)
    with pytest.raises(TypeError):
        ours.field(default=1)


WAYS: list[Callable[[Any], Any]] = [
    lambda p: repr(p(1)).split(".")[-1],
    lambda p: p(1, 3.0).norm,
    lambda p: p(1).moved(4).x,
    lambda p: p(1) == p(1),
    lambda p: p(1) == p(2),
    lambda p: p(1) == (1, 2.0, []),
    lambda p: p(1, tags=["a"]).tags,
    lambda p: p(1).tags is p(1).tags,
    lambda p: p(1) in [p(1)],
    lambda p: p.__match_args__,
    lambda p: p.__doc__,
    lambda p: p.__slots__,
    lambda p: p.__module__,
    lambda p: dataclasses.asdict(p(1, 5.0)),
    lambda p: [(f.name, f.type, f.kw_only) for f in dataclasses.fields(p)],
    lambda p: dataclasses.is_dataclass(p(1)) and dataclasses.is_dataclass(p),
    lambda p: dataclasses.replace(p(1), y=7).y,
    lambda p: copy.copy(p(1, 8)).y,
    lambda p: hasattr(p(1), "__dict__"),
    lambda p: hash(p(1)),
    lambda p: p(),
    lambda p: p(1, 2.0, [], 4),
    lambda p: p(1, z=3),
    lambda p: p(1, x=3),
    lambda p: setattr(p(1), "x", 3),
    lambda p: delattr(p(1), "x"),
    lambda p: dataclasses.replace(p(1), z=3),
]


@pytest.mark.parametrize("way", WAYS)
def test_both_give_the_same_or_fail_alike(way: Callable[[Any], Any]) -> None:
    assert attempt(way, BOTH["ours"]) == attempt(way, BOTH["original"])


def test_a_frozen_one_can_be_a_key_and_crosses_a_process() -> None:
    one = Frozen(1, (2, 3))
    assert {one: 4}[Frozen(1, (2, 3))] == 4
    assert pickle.loads(pickle.dumps(one)) == one
    assert len(pickle.dumps(one)) < 120


def test_an_open_one_changes_and_is_only_itself() -> None:
    one = Open(1)
    one.a, one.b[:] = 5, [6]
    assert (one.a, one.b, Open(1).b) == (5, [6], [])
    assert one != copy.copy(one)
    assert hash(one) != hash(copy.copy(one))
    with pytest.raises(AttributeError):
        one.c = 1  # type: ignore[attr-defined]


def test_without_options() -> None:
    one = Plain(2)
    one.b = 3  # type: ignore[attr-defined]
    assert one == Plain(2)
    assert (Plain.a, Plain().a) == (1, 1)


def test_names_alone() -> None:
    assert Named(b=3) == Named(a=1, b=3)
    with pytest.raises(TypeError, match="positional"):
        Named(3)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Named().a = 4  # type: ignore[misc]
    assert [f.kw_only for f in dataclasses.fields(Named)] == [True, True]
