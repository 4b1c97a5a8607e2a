"""The standard library's ``dataclass``, without its cost at every start of the program.

The original writes the text of each method and compiles it, half a millisecond for each of sixty classes.  Here all classes
share the same few functions, which look up the fields of theirs; making an object takes a microsecond more.  It knows what is
used here, ``frozen``, ``slots``, ``eq``, ``kw_only``, default factories and inherited fields, and refuses the rest.  Type
checkers see the original; ``dataclasses.replace``, ``fields`` and ``asdict`` work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["dataclass", "field", "replace"]


class _Shape:
    """What the shared methods must know of a class."""

    __slots__ = ("compares", "defaults", "factories", "frozen", "names", "positional", "slots", "types")

    def __init__(self, cls: type, frozen: bool, compares: bool, kw_only: bool) -> None:
        own = cls.__annotations__
        if hasattr(cls, "__post_init__") or any("ClassVar" in str(kind) or "InitVar" in str(kind) for kind in own.values()):
            raise TypeError(f"{cls.__name__} takes what only the standard library's dataclass has")
        self.types: dict[str, Any] = {}
        self.defaults: dict[str, Any] = {}
        self.factories: dict[str, Any] = {}
        for shape in (vars(base).get("_shape") for base in reversed(cls.__mro__[1:])):
            if isinstance(shape, _Shape):
                self.types |= shape.types
                self.defaults |= shape.defaults
                self.factories |= shape.factories
        self.slots = tuple(name for name in own if name not in self.types)
        self.types |= own
        for name in own:
            if isinstance(value := cls.__dict__.get(name, self), _Field):
                self.factories[name] = value.default_factory
            elif value is not self:
                self.defaults[name] = value
        self.names = tuple(self.types)
        self.positional = 0 if kw_only else len(self.names)
        self.frozen, self.compares = frozen, compares


class _Field:
    """A field whose default is made anew for each object."""

    def __init__(self, *, default_factory: Any) -> None:
        self.default_factory = default_factory


class _Original:
    """What the functions of ``dataclasses`` look for in a class, made when they do."""

    def __get__(self, instance: object, cls: Any) -> Any:
        import dataclasses

        shape: _Shape = cls._shape
        fields: list[Any] = []
        for name, kind in shape.types.items():
            options: dict[str, Any] = {"kw_only": not shape.positional}
            if name in shape.factories:
                options["default_factory"] = shape.factories[name]
            elif name in shape.defaults:
                options["default"] = shape.defaults[name]
            fields.append((name, kind, dataclasses.field(**options)))
        made: Any = dataclasses.make_dataclass(cls.__name__, fields)
        return made.__dataclass_fields__


def _init(self: Any, *args: Any, **given: Any) -> None:
    shape: _Shape = self._shape
    names = shape.names
    if len(args) > shape.positional:
        raise TypeError(f"{type(self).__name__} takes {shape.positional} positional arguments, not {len(args)}")
    values = dict(zip(names, args, strict=False))
    for name, value in given.items():
        if name not in shape.types or name in values:
            raise TypeError(f"{type(self).__name__}: unexpected or repeated argument {name!r}")
        values[name] = value
    if len(values) < len(names):
        for name in names:
            if name in values:
                continue
            if name in shape.defaults:
                values[name] = shape.defaults[name]
            elif name in shape.factories:
                values[name] = shape.factories[name]()
            else:
                raise TypeError(f"{type(self).__name__}: missing argument {name!r}")
    _fill(self, values.items())


def _fill(self: Any, values: Any) -> None:
    put = object.__setattr__
    for name, value in values:
        put(self, name, value)


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self._shape.names])


def _repr(self: Any) -> str:
    values = zip(self._shape.names, _values(self), strict=True)
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in values)})"


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse(self: object, name: str, value: object = None) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot change field {name!r}")


def _setstate(self: Any, state: tuple[Any, ...]) -> None:
    _fill(self, zip(self._shape.names, state, strict=True))


def _dataclass(
    plain: Any = None, /, *, frozen: bool = False, slots: bool = False, eq: bool = True, kw_only: bool = False
) -> Any:
    """Give a class with annotations the methods of a dataclass; as a decorator with or without options."""

    def make(cls: Any) -> Any:
        shape = _Shape(cls, frozen, eq, kw_only)
        body: dict[str, Any] = {"_shape": shape, "__init__": _init, "__repr__": _repr}
        body["__match_args__"] = shape.names[: shape.positional]
        if eq:
            body |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
        if frozen:
            body |= {"__setattr__": _refuse, "__delattr__": _refuse}
        body |= {key: value for key, value in cls.__dict__.items() if key not in ("__dict__", "__weakref__")}
        body["__dataclass_fields__"] = _Original()
        for name in shape.factories if not slots else shape.names:
            body.pop(name, None)
        if slots:
            body |= {"__slots__": shape.slots, "__getstate__": _values, "__setstate__": _setstate}
        return type(cls)(cls.__name__, cls.__bases__, body)

    return make if plain is None else make(plain)


def _replace(instance: Any, /, **changes: Any) -> Any:
    """A copy with some fields changed."""
    return type(instance)(**dict(zip(instance._shape.names, _values(instance), strict=True)) | changes)


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    dataclass, field, replace = _dataclass, _Field, _replace
