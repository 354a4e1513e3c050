"""numpy functions as XLA custom calls, through XLA's C interface for foreign functions (XLA FFI).

`jax.pure_callback` hands each argument to XLA's own thread pool to be copied before Python may read it.
The threads of that pool may all be waiting in callbacks: on one core such a program stops for good. A
foreign function reads XLA's buffers where they lie, waits for nobody, and JAX keeps its compiled program
for the next start.

Source: `xla/ffi/api/c_api.h` in `jax.ffi.include_dir()`, version 0.3, which XLA keeps for at least twelve months
after a newer one.
"""

import ctypes
import traceback
from collections.abc import Callable

import jax
import numpy as np

_API_VERSION = (0, 3)
_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
_DTYPES = {8: np.uint32, 11: np.float32, 12: np.float64}  # XLA_FFI_DataType -> numpy


def _struct(name: str, **fields) -> type[ctypes.Structure]:
    """A C struct of the interface: all but the plainest begin with their size and a chain of extensions."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_HEAD = {"struct_size": ctypes.c_size_t, "extension": ctypes.c_void_p}
_Buffer = _struct(
    "Buffer",
    **_HEAD,
    dtype=ctypes.c_int,
    data=ctypes.c_void_p,
    rank=ctypes.c_int64,
    dims=ctypes.POINTER(ctypes.c_int64),
)
_Buffers = _struct(  # XLA_FFI_Args and XLA_FFI_Rets
    "Buffers",
    **_HEAD,
    size=ctypes.c_int64,
    types=ctypes.POINTER(ctypes.c_int),
    buffers=ctypes.POINTER(ctypes.POINTER(_Buffer)),
)
_Version = _struct("Version", **_HEAD, major=ctypes.c_int, minor=ctypes.c_int)
_ErrorArgs = _struct("ErrorArgs", **_HEAD, message=ctypes.c_char_p, code=ctypes.c_int)
_CreateError = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_ErrorArgs))
_Api = _struct("Api", **_HEAD, version=_Version, internal=ctypes.c_void_p, create_error=_CreateError)
_CallFrame = _struct(
    "CallFrame",
    **_HEAD,
    api=ctypes.POINTER(_Api),
    context=ctypes.c_void_p,
    stage=ctypes.c_int,
    arguments=_Buffers,
    results=_Buffers,
)
_Metadata = _struct("Metadata", struct_size=ctypes.c_size_t, version=_Version, traits=ctypes.c_uint32)
_Extension = _struct(
    "Extension",
    struct_size=ctypes.c_size_t,
    type=ctypes.c_int,
    next=ctypes.c_void_p,
    metadata=ctypes.POINTER(_Metadata),
)
_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_CallFrame))

_handlers: dict[str, Callable] = {}  # XLA never lets go of a handler, so neither does this


def _arrays(buffers: ctypes.Structure) -> list[np.ndarray]:
    """numpy views of XLA's buffers."""
    arrays = []
    for i in range(buffers.size):
        buffer = buffers.buffers[i].contents
        shape = tuple(buffer.dims[: buffer.rank])
        dtype = np.dtype(_DTYPES[buffer.dtype])
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_byte * size).from_address(buffer.data) if size else b""
        arrays.append(np.frombuffer(memory, dtype).reshape(shape))
    return arrays


def _asked_for_metadata(frame: ctypes.Structure) -> bool:
    """XLA asks what a handler is before the first call; answers it."""
    if not frame.extension:
        return False
    extension = ctypes.cast(frame.extension, ctypes.POINTER(_Extension)).contents
    if extension.type != _METADATA:
        return False
    version = extension.metadata.contents.version
    version.major, version.minor = _API_VERSION
    return True


def _handler(function: Callable) -> Callable:
    def handle(frame) -> int | None:
        try:
            if not _asked_for_metadata(frame.contents):
                returned = function(*_arrays(frame.contents.arguments))
                for target, value in zip(_arrays(frame.contents.results), returned, strict=True):
                    target[...] = value
        except BaseException:  # nothing may pass by: XLA would take what is left in a register for an error
            said = traceback.format_exc().encode(errors="replace")
            error = _ErrorArgs(ctypes.sizeof(_ErrorArgs), None, said, _INTERNAL)
            return frame.contents.api.contents.create_error(ctypes.byref(error))
        return None

    return _Handler(handle)


def register(name: str, function: Callable) -> None:
    """Makes `function(*arrays) -> sequence of arrays` callable as the target `name`.

    It is called from XLA's threads, at the same time where a program allows, and must never call JAX. Its
    arguments are views that end with the call. What it raises ends the program with its traceback. `name`
    enters the compiled program's key: the same name must mean the same function at the next start.
    """
    if name in _handlers:
        raise ValueError(f"host call {name!r} is registered already")
    _handlers[name] = _handler(function)
    pointer = ctypes.cast(_handlers[name], ctypes.c_void_p).value
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(pointer), platform="cpu")
