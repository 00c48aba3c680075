"""Short float32 vectors for numba kernels: LLVM maps them to whatever the machine has.

The number of lanes is part of the type. Kernels take it as ``tag``, a tuple of that many zeros, so that
one source compiles once per width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

# The decorated functions are called without the typing context: hide that from type checkers.
intrinsic: Any = _intrinsic

_F32, _I32 = ir.FloatType(), ir.IntType(32)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the GIL; keep the machine code on disk where that is possible."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)


class VectorType(types.Type):
    """The numba type of ``lanes`` float32 numbers."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM type."""
        return ir.VectorType(_F32, self.lanes)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: VectorType) -> None:
        super().__init__(manager, numba_type, numba_type.llvm)


def _splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    vector = builder.insert_element(
        ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined), scalar, _I32(0)
    )
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(vector, vector, zeros)


def _constant(value: float, lanes: int) -> Any:
    return ir.Constant(ir.VectorType(_F32, lanes), [_F32(value)] * lanes)


def _fmuladd(builder: ir.IRBuilder, lanes: int) -> Any:
    """x * y + z: fused where the machine can, never a library call (as llvm.fma may be)."""
    wide = ir.VectorType(_F32, lanes)
    kind = ir.FunctionType(wide, [wide] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{lanes}f32")


def _address(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any, lanes: int) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(_F32, lanes).as_pointer())


@intrinsic
def peek(_typing: Any, array: Any, index: Any) -> Any:
    """Read one element of a flat array; unlike ``array[index]``, no test for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, value=args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def poke(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write one element of a flat array; unlike ``array[index] = value``, no test for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, value=args[0]).data
        builder.store(args[2], builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of one element of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, value=args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def load(_typing: Any, array: Any, index: Any, tag: Any) -> Any:
    """Read lanes from a flat array, starting at an index."""
    vector = VectorType(len(tag))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, array, args[0], args[1], vector.lanes))
        value.align = 4
        return value

    return vector(array, types.intp, tag), generate


@intrinsic
def store(_typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write lanes to a flat array, starting at an index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        instruction = builder.store(
            args[2], _address(context, builder, array, args[0], args[1], vector.lanes)
        )
        instruction.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def fill(_typing: Any, scalar: Any, tag: Any) -> Any:
    """Repeat a number in every lane."""
    vector = VectorType(len(tag))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0], vector.lanes)

    return vector(types.float32, tag), generate


@intrinsic
def axpy(_typing: Any, scalar: Any, vector: Any, addend: Any) -> Any:
    """Return ``scalar * vector + addend``, fused where the machine can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = _fmuladd(builder, vector.lanes)
        return builder.call(function, [_splat(builder, args[0], vector.lanes), args[1], args[2]])

    return vector(types.float32, vector, vector), generate


def _elementwise(name: str, emit: Callable[[Any, Any, Any], Any]) -> Any:
    def typed(_typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, args[0], args[1])

        return left(left, right), generate

    typed.__name__ = name
    return intrinsic(typed)


def _select(ordering: str) -> Callable[[Any, Any, Any], Any]:
    return lambda b, x, y: b.select(b.fcmp_ordered(ordering, x, y), x, y)


def _indicator(ordering: str) -> Callable[[Any, Any, Any], Any]:
    def emit(builder: Any, x: Any, y: Any) -> Any:
        lanes = x.type.count
        return builder.select(
            builder.fcmp_ordered(ordering, x, y), _constant(1.0, lanes), _constant(0.0, lanes)
        )

    return emit


add = _elementwise("add", lambda b, x, y: b.fadd(x, y))
sub = _elementwise("sub", lambda b, x, y: b.fsub(x, y))
mul = _elementwise("mul", lambda b, x, y: b.fmul(x, y))
div = _elementwise("div", lambda b, x, y: b.fdiv(x, y))
div = _elementwise("div", lambda b, x, y: b.fdiv(x, y))
maximum = _elementwise("maximum", _select(">"))
less = _elementwise("less", _indicator("<"))  # 1 where x < y, else 0


def _tree(name: str, emit: Callable[[Any, Any, Any], Any]) -> Any:
    """Combine all lanes pairwise."""

    def typed(_typing: Any, vector: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value, lanes = args[0], vector.lanes
            while lanes > 1:
                half = lanes // 2
                halves = [
                    builder.shuffle_vector(
                        value,
                        value,
                        ir.Constant(ir.VectorType(_I32, half), [_I32(s + i) for i in range(half)]),
                    )
                    for s in (0, half)
                ]
                value, lanes = emit(builder, *halves), half
            return builder.extract_element(value, _I32(0))

        return types.float32(vector), generate

    typed.__name__ = name
    return intrinsic(typed)


total = _tree("total", lambda b, x, y: b.fadd(x, y))
largest = _tree("largest", _select(">"))

# exp(r) on |r| <= ln(2) / 2, Taylor: the first term left out is below 1.2e-7 of the result.
_EXP = (1.0, 1.0, 0.5, 1 / 6, 1 / 24, 1 / 120, 1 / 720)


@intrinsic
def exp(_typing: Any, vector: Any) -> Any:
    """Exponential of lanes that are at most 0, to a relative error of 2e-7; tiny results become 0."""
    lanes = vector.lanes

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b, wide, ints = builder, vector.llvm, ir.VectorType(_I32, lanes)
        fma = _fmuladd(b, lanes)

        def const(value: float) -> Any:
            return _constant(value, lanes)

        low = const(-87.0)
        x = b.select(b.fcmp_ordered(">", args[0], low), args[0], low)
        magic = const(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, kept in the low bits
        shifted = b.call(fma, [x, const(1.44269504088896341), magic])
        power = b.fsub(shifted, magic)
        rest = b.call(fma, [power, const(-0.693145751953125), x])
        rest = b.call(fma, [power, const(-1.42860682030941723e-6), rest])
        value = const(_EXP[-1])
        for coefficient in reversed(_EXP[:-1]):
            value = b.call(fma, [value, rest, const(coefficient)])
        bits = b.shl(b.bitcast(shifted, ints), ir.Constant(ints, [_I32(23)] * lanes))
        result = b.bitcast(b.add(b.bitcast(value, ints), bits), wide)
        return b.select(b.fcmp_ordered(">", args[0], low), result, const(0.0))

    return vector(vector), generate
