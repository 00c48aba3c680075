"""Short vectors for numba kernels: LLVM maps them to whatever the machine has.

They hold float32 numbers, or whole ones, whose sums are exact.
The number of lanes is part of the type. Kernels take it as ``tag``, a tuple of that many zeros, so that
one source compiles once per width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

# The decorated functions are called without the typing context: hide that from type checkers.
intrinsic: Any = _intrinsic

_F32, _I32, _I8 = ir.FloatType(), ir.IntType(32), ir.IntType(8)


class VectorType(types.Type):
    """The numba type of ``lanes`` numbers, float32 or, of whole numbers, int32."""

    def __init__(self, lanes: int, *, whole: bool = False) -> None:
        """Name the type by its lanes."""
        self.lanes, self.whole = lanes, whole
        super().__init__(name=f"{'int' if whole else 'float'}32x{lanes}")

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM type."""
        return ir.VectorType(_I32 if self.whole else _F32, self.lanes)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: VectorType) -> None:
        super().__init__(manager, numba_type, numba_type.llvm)


def splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    """Vector of a scalar in all lanes."""
    vector = builder.insert_element(
        ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined), scalar, _I32(0)
    )
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(vector, vector, zeros)


def constant(value: float, lanes: int) -> Any:
    """Vector of a number in all lanes."""
    return ir.Constant(ir.VectorType(_F32, lanes), [_F32(value)] * lanes)


def fmuladd(builder: ir.IRBuilder, lanes: int) -> Any:
    """x * y + z: fused where the machine can, never a library call (as llvm.fma may be)."""
    wide = ir.VectorType(_F32, lanes)
    kind = ir.FunctionType(wide, [wide] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{lanes}f32")


def pointer_to(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to an element of a flat array."""
    return builder.gep(cgutils.create_struct_proxy(array_type)(context, builder, value=array).data, [index])


def vector_pointer_to(
    context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any, lanes: int
) -> Any:
    """Pointer to the vector that starts at an element of a flat array."""
    pointer = pointer_to(context, builder, array_type, array, index)
    return builder.bitcast(pointer, ir.VectorType(_F32, lanes).as_pointer())


@intrinsic
def peek(_typing: Any, array: Any, index: Any) -> Any:
    """Read one element of a flat array; unlike ``array[index]``, no test for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(pointer_to(context, builder, array, *args))

    return array.dtype(array, types.intp), generate


@intrinsic
def poke(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write one element of a flat array; unlike ``array[index] = value``, no test for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], pointer_to(context, builder, array, *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


def _ask_for(again: int) -> Callable[..., Any]:
    """Generator of a prefetch of one element of a flat array; ``again``: 3 if it is used again, 0 if once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = builder.bitcast(pointer_to(context, builder, signature.args[0], *args), _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, _I32(0), _I32(again), _I32(1)])
        return context.get_dummy_value()

    return generate


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of one element of a flat array."""
    return types.void(array, types.intp), _ask_for(3)


@intrinsic
def prefetch_once(_typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of one element that is soon done with: it shall not push others out."""
    return types.void(array, types.intp), _ask_for(0)


@intrinsic
def load(_typing: Any, array: Any, index: Any, tag: Any) -> Any:
    """Read lanes from a flat array, starting at an index."""
    vector = VectorType(len(tag))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(vector_pointer_to(context, builder, array, args[0], args[1], vector.lanes))
        value.align = 4
        return value

    return vector(array, types.intp, tag), generate


@intrinsic
def store(_typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write lanes to a flat array, starting at an index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        instruction = builder.store(
            args[2], vector_pointer_to(context, builder, array, args[0], args[1], vector.lanes)
        )
        instruction.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def load_every(_typing: Any, array: Any, index: Any, step: Any, tag: Any) -> Any:
    """Read lanes from a flat array, one in ``step`` elements."""
    vector = VectorType(len(tag))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = ir.Constant(vector.llvm, ir.Undefined)
        place = pointer_to(context, builder, array, args[0], args[1])
        for i in range(vector.lanes):
            value = builder.insert_element(value, builder.load(place), _I32(i))
            place = builder.gep(place, [args[2]])
        return value

    return vector(array, types.intp, types.intp, tag), generate


@intrinsic
def store_every(_typing: Any, array: Any, index: Any, step: Any, vector: Any) -> Any:
    """Write lanes to a flat array, one in ``step`` elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer_to(context, builder, array, args[0], args[1])
        for i in range(vector.lanes):
            builder.store(builder.extract_element(args[3], _I32(i)), place)
            place = builder.gep(place, [args[2]])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


@intrinsic
def fill(_typing: Any, scalar: Any, tag: Any) -> Any:
    """Repeat a number in every lane."""
    vector = VectorType(len(tag))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat(builder, args[0], vector.lanes)

    return vector(types.float32, tag), generate


@intrinsic
def axpy(_typing: Any, scalar: Any, vector: Any, addend: Any) -> Any:
    """Return ``scalar * vector + addend``, fused where the machine can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = fmuladd(builder, vector.lanes)
        return builder.call(function, [splat(builder, args[0], vector.lanes), args[1], args[2]])

    return vector(types.float32, vector, vector), generate


def _indices(builder: Any, pointer: Any, bits: int, count: int) -> list[Any]:
    """Read unsigned integers, several in a load (little-endian), as 64-bit numbers: loads are scarce."""
    wide, numbers = ir.IntType(64), []
    while len(numbers) < count:
        each = next(n for n in (4, 2, 1) if n * bits <= 64 and n <= count - len(numbers))
        place = builder.gep(pointer, [_I32(len(numbers))])
        word = builder.load(builder.bitcast(place, ir.IntType(each * bits).as_pointer()))
        word.align = bits // 8
        word = builder.zext(word, wide) if each * bits < 64 else word
        for i in range(each):
            number = builder.lshr(word, wide(i * bits))
            numbers.append(builder.and_(number, wide(2**bits - 1)))
    return numbers


def _weighted_rows(name: str, doc: str, emit: Callable[..., Any]) -> Any:
    """Visit ``len(corners)`` rows of ``values``, unrolled: LLVM's own choice to do so cannot be relied on."""

    def typed(
        _typing: Any,
        offsets: Any,
        weights: Any,
        at: Any,
        corners: Any,
        values: Any,
        base: Any,
        vector: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            numbers = _indices(
                builder,
                pointer_to(context, builder, offsets, args[0], args[2]),
                offsets.dtype.bitwidth,
                len(corners),
            )
            shares = pointer_to(context, builder, weights, args[1], args[2])
            start = pointer_to(context, builder, values, args[4], args[5])
            wide, result = vector.llvm.as_pointer(), args[6]
            for i, number in enumerate(numbers):
                row = builder.mul(number, number.type(vector.lanes))
                place = builder.bitcast(builder.gep(start, [row]), wide)
                share = splat(builder, builder.load(builder.gep(shares, [_I32(i)])), vector.lanes)
                old = builder.load(place)
                old.align = 4
                result = emit(builder, fmuladd(builder, vector.lanes), share, place, old, result)
            return result

        return vector(offsets, weights, types.intp, corners, values, types.intp, vector), generate

    typed.__name__, typed.__doc__ = name, doc
    return intrinsic(typed)


def _gather(builder: Any, fmuladd: Any, share: Any, place: Any, old: Any, sum_: Any) -> Any:
    return builder.call(fmuladd, [share, old, sum_])


def _scatter(builder: Any, fmuladd: Any, share: Any, place: Any, old: Any, vector: Any) -> Any:
    builder.store(builder.call(fmuladd, [share, vector, old]), place).align = 4
    return vector


# Rows are as long as the vector, numbered by ``offsets[at], ...`` and weighted by ``weights[at], ...``.
gather = _weighted_rows("gather", "Add the weighted rows of values to a vector.", _gather)
scatter = _weighted_rows("scatter", "Add a vector, weighted, to rows of values; return it.", _scatter)


def _elementwise(name: str, emit: Callable[[Any, Any, Any], Any]) -> Any:
    def typed(_typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, args[0], args[1])

        return left(left, right), generate

    typed.__name__ = name
    return intrinsic(typed)


def _sum(builder: Any, x: Any, y: Any) -> Any:
    return builder.add(x, y) if x.type.element == _I32 else builder.fadd(x, y)


def _select(ordering: str) -> Callable[[Any, Any, Any], Any]:
    return lambda b, x, y: b.select(b.fcmp_ordered(ordering, x, y), x, y)


def _indicator(ordering: str) -> Callable[[Any, Any, Any], Any]:
    def emit(builder: Any, x: Any, y: Any) -> Any:
        lanes = x.type.count
        return builder.select(
            builder.fcmp_ordered(ordering, x, y), constant(1.0, lanes), constant(0.0, lanes)
        )

    return emit


add = _elementwise("add", _sum)
sub = _elementwise("sub", lambda b, x, y: b.fsub(x, y))
mul = _elementwise("mul", lambda b, x, y: b.fmul(x, y))
div = _elementwise("div", lambda b, x, y: b.fdiv(x, y))
maximum = _elementwise("maximum", _select(">"))
less = _elementwise("less", _indicator("<"))  # 1 where x < y, else 0


@intrinsic
def where_equal(_typing: Any, left: Any, right: Any, then: Any, otherwise: Any) -> Any:
    """Choose lane by lane: ``then`` where ``left == right``, else ``otherwise``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("==", args[0], args[1]), args[2], args[3])

    return left(left, left, left, left), generate


@intrinsic
def whole(_typing: Any, vector: Any) -> Any:
    """Cut off what lies behind the point of numbers within int32, which nothing checks."""
    wholes = VectorType(vector.lanes, whole=True)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fptosi(args[0], wholes.llvm)

    return wholes(vector), generate


@intrinsic
def unwhole(_typing: Any, vector: Any) -> Any:
    """Whole numbers as float32."""
    plain = VectorType(vector.lanes)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(args[0], plain.llvm)

    return plain(vector), generate


@intrinsic
def total(_typing: Any, vector: Any) -> Any:
    """Sum of all lanes, added pairwise."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, lanes = args[0], vector.lanes
        while lanes > 1:
            lanes //= 2
            low, high = (
                builder.shuffle_vector(
                    value, value, ir.Constant(ir.VectorType(_I32, lanes), [_I32(s + i) for i in range(lanes)])
                )
                for s in (0, lanes)
            )
            value = builder.fadd(low, high)
        return builder.extract_element(value, _I32(0))

    return types.float32(vector), generate


def _in_groups(name: str, emit: Callable[[Any, Any, Any], Any]) -> Any:
    """Combine the lanes of each group of neighbours, ``len(tag)`` of them; every lane gets the result."""

    def typed(_typing: Any, vector: Any, tag: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value, lanes, step = args[0], vector.lanes, 1
            while step < len(tag):
                order = ir.Constant(ir.VectorType(_I32, lanes), [_I32(i ^ step) for i in range(lanes)])
                value = emit(builder, value, builder.shuffle_vector(value, value, order))
                step *= 2
            return value

        return vector(vector, tag), generate

    typed.__name__ = name
    return intrinsic(typed)


group_total = _in_groups("group_total", _sum)
group_largest = _in_groups("group_largest", _select(">"))

# ln(2) in two parts: a multiple of the first by a small integer is exact.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723e-6


def _polynomial(builder: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    """Evaluate a polynomial, lowest power first."""
    lanes = x.type.count
    value = constant(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        value = builder.call(fmuladd(builder, lanes), [value, x, constant(coefficient, lanes)])
    return value


# exp(r) on |r| <= ln(2) / 2, Taylor: the first term left out is below 1.2e-7 of the result.
_EXP = (1.0, 1.0, 0.5, 1 / 6, 1 / 24, 1 / 120, 1 / 720)


@intrinsic
def exp(_typing: Any, vector: Any) -> Any:
    """Exponential of lanes that are at most 0, to a relative error of 2e-7; tiny results become 0."""
    lanes = vector.lanes

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b, wide, ints = builder, vector.llvm, ir.VectorType(_I32, lanes)
        fma = fmuladd(b, lanes)

        def const(value: float) -> Any:
            return constant(value, lanes)

        low = const(-87.0)
        x = b.select(b.fcmp_ordered(">", args[0], low), args[0], low)
        magic = const(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, kept in the low bits
        shifted = b.call(fma, [x, const(1.44269504088896341), magic])
        power = b.fsub(shifted, magic)
        rest = b.call(fma, [power, const(-_LN2_HIGH), x])
        rest = b.call(fma, [power, const(-_LN2_LOW), rest])
        value = _polynomial(b, _EXP, rest)
        bits = b.shl(b.bitcast(shifted, ints), ir.Constant(ints, [_I32(23)] * lanes))
        result = b.bitcast(b.add(b.bitcast(value, ints), bits), wide)
        return b.select(b.fcmp_ordered(">", args[0], low), result, const(0.0))

    return vector(vector), generate


# log((1 + s) / (1 - s)) / s in powers of s^2, Taylor: for |s| <= 0.172 the first term left out is below 5e-9.
_LOG = (2.0, 2 / 3, 2 / 5, 2 / 7, 2 / 9)


@intrinsic
def log(_typing: Any, vector: Any) -> Any:
    """Natural logarithm of normal positive numbers, which nothing checks, to a relative error of 3e-7."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b, wide, lanes = builder, vector.llvm, vector.lanes
        ints, fma = ir.VectorType(_I32, lanes), fmuladd(b, lanes)
        # x = 2^power m with m in [sqrt(1/2), sqrt(2)): 23 bits of mantissa, and sqrt(1/2) as an integer.
        mantissa, least = (ir.Constant(ints, [_I32(value)] * lanes) for value in (23, 0x3F3504F3))
        bits = b.bitcast(args[0], ints)
        power = b.ashr(b.sub(bits, least), mantissa)
        m = b.bitcast(b.sub(bits, b.shl(power, mantissa)), wide)
        power = b.sitofp(power, wide)
        # log(m) = log((1 + s) / (1 - s)).
        above = b.fsub(m, constant(1.0, lanes))
        s = b.fdiv(above, b.fadd(above, constant(2.0, lanes)))
        value = b.fmul(s, _polynomial(b, _LOG, b.fmul(s, s)))
        value = b.call(fma, [power, constant(_LN2_LOW, lanes), value])
        return b.call(fma, [power, constant(_LN2_HIGH, lanes), value])

    return vector(vector), generate


# 2^r on |r| <= 1/2, Taylor: the first term left out is below 1.3e-7 of the result.
_EXP2 = tuple(math.log(2.0) ** n / math.factorial(n) for n in range(7))


def power_of_two(builder: Any, exponent: Any) -> Any:
    """2 to the power of whole numbers."""
    lanes = exponent.type.count
    ints = ir.VectorType(_I32, lanes)
    magic = constant(12582912.0, lanes)  # 1.5 * 2**23: adding it rounds to an integer, kept in the low bits
    shifted = builder.fadd(exponent, magic)
    rest = builder.fsub(exponent, builder.fsub(shifted, magic))
    value = _polynomial(builder, _EXP2, rest)
    bits = builder.shl(builder.bitcast(shifted, ints), ir.Constant(ints, [_I32(23)] * lanes))
    return builder.bitcast(builder.add(builder.bitcast(value, ints), bits), exponent.type)


@intrinsic
def exp2(_typing: Any, vector: Any) -> Any:
    """Power of two for exponents between -126 and 127, which nothing checks, to a relative error of 2e-7."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return power_of_two(builder, args[0])

    return vector(vector), generate


minimum = _elementwise("minimum", _select("<"))
