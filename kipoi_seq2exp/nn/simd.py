"""Vectors of 16 float32 numbers for numba: the few instructions that the kernels are made of.

numba has no vector type, and LLVM does not reliably turn a loop over channels into vector instructions. So this file
gives numba one type, `Lanes` (LLVM's <16 x float>), which LLVM maps to one AVX-512 register, two AVX, or four SSE or
NEON ones. All 16 lanes are neighbouring channels; nothing here ever adds across lanes but `add_across`.

    load(array, row, column)            16 numbers of a C-contiguous 2-D float32 array, from [row, column]
    store(array, row, column, lanes)
    fill(number)                        the same number in every lane
    muladd(a, b, c)                     a * b + c, one rounding where the processor can (llvm.fmuladd, not llvm.fma:
                                        that one becomes a library call on processors without it)
    sigmoid(x), softplus(x)             any x, within 3e-7 relative
    exp2(x)                             2 ** x for x <= 0, within 2e-7: round to the nearest whole number, which
                                        goes into the exponent bits, and a polynomial of degree 5 for the rest

Operators + and * work between two `Lanes`.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_LANES = ir.VectorType(_FLOAT, WIDTH)
_LANES_INT = ir.VectorType(_INT, WIDTH)

ROUNDER = 12_582_912.0  # 1.5 * 2**23: adding it leaves the nearest whole number in the low bits of a float32
SMALLEST_EXPONENT = -126.0
# 2**f on [-0.5, 0.5], lowest power first: minimax for (2**f - 1) / f with a constant of exactly 1. A slowly decaying
# state is multiplied by 2**f thousands of times: the error of 1 - 2**f must be small (4.3e-7), not only that of 2**f.
EXP2_COEFFICIENTS = (1.0, 0.69314714351, 0.24022351341, 0.055505002143, 0.0096662455946, 0.001333353866)

# ln(1 + e) / e on [0, 1], lowest power first: minimax, relative error 3.0e-8
LOG1P_COEFFICIENTS = (
    *(0.9999999699, -0.4999949315, 0.333190969, -0.2484298267, 0.191060079),
    *(-0.1366324728, 0.07822596095, -0.02950524012, 0.005232693705),
)
LOG2_E = 1.4426950408889634


class LanesType(types.Type):
    """Type of 16 float32 numbers side by side."""

    def __init__(self) -> None:
        super().__init__(name="Lanes(float32 x 16)")


Lanes = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, _LANES)


def _splat(builder: Any, number: Any) -> Any:
    """Repeat a scalar in every lane."""
    single = builder.insert_element(ir.Constant(_LANES, ir.Undefined), number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, ir.Constant(_LANES, ir.Undefined), ir.Constant(_LANES_INT, [0] * WIDTH))


def _constant(value: float) -> Any:
    return ir.Constant(_LANES, [ir.Constant(_FLOAT, value)] * WIDTH)


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    """Call an LLVM intrinsic on whole vectors."""
    signature = ir.FunctionType(_LANES, [_LANES] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{WIDTH}f32")
    return builder.call(function, arguments)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, row: Any, column: Any) -> Any:
    """Address of array[row, column] as a pointer to 16 numbers."""
    native = context.make_array(array_type)(context, builder, array)
    columns = cgutils.unpack_tuple(builder, native.shape)[1]
    offset = builder.add(builder.mul(row, columns), column)
    return builder.bitcast(builder.gep(native.data, [offset]), _LANES.as_pointer())


@intrinsic
def load(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Read 16 neighbouring numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = builder.load(_pointer(context, builder, signature.args[0], *arguments))
        result.align = 4
        return result

    return Lanes(array, types.intp, types.intp), code


@intrinsic
def store(typingctx: Any, array: Any, row: Any, column: Any, lanes: Any) -> Any:
    """Write 16 neighbouring numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *arguments[:3])
        builder.store(arguments[3], place).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, Lanes), code


@intrinsic
def fill(typingctx: Any, number: Any) -> Any:
    """Repeat one number in every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return Lanes(types.float32), code


@intrinsic
def muladd(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute a * b + c lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "fmuladd", *arguments)

    return Lanes(Lanes, Lanes, Lanes), code


def _exp2(builder: Any, x: Any) -> Any:
    x = _call(builder, "maxnum", x, _constant(SMALLEST_EXPONENT))
    shifted = builder.fadd(x, _constant(ROUNDER))
    rest = builder.fsub(x, builder.fsub(shifted, _constant(ROUNDER)))
    power = _polynomial(builder, EXP2_COEFFICIENTS, rest)
    exponent = builder.shl(builder.bitcast(shifted, _LANES_INT), ir.Constant(_LANES_INT, [23] * WIDTH))
    return builder.bitcast(builder.add(builder.bitcast(power, _LANES_INT), exponent), _LANES)


def _polynomial(builder: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    """Evaluate a polynomial, lowest power first, by Horner's rule."""
    total = _constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = _call(builder, "fmuladd", total, x, _constant(coefficient))
    return total


def _exp_of_minus_magnitude(builder: Any, x: Any) -> Any:
    """Compute exp(-|x|), which neither overflows nor loses digits."""
    return _exp2(builder, builder.fmul(_call(builder, "fabs", x), _constant(-LOG2_E)))


@intrinsic
def exp2(typingctx: Any, x: Any) -> Any:
    """Compute 2 ** x lane by lane, x <= 0."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _exp2(builder, arguments[0])

    return Lanes(Lanes), code


@intrinsic
def sigmoid(typingctx: Any, x: Any) -> Any:
    """Compute 1 / (1 + exp(-x)) lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        small = _exp_of_minus_magnitude(builder, arguments[0])
        positive = builder.fcmp_ordered(">=", arguments[0], _constant(0.0))
        above = builder.select(positive, _constant(1.0), small)
        return builder.fdiv(above, builder.fadd(small, _constant(1.0)))

    return Lanes(Lanes), code


@intrinsic
def softplus(typingctx: Any, x: Any) -> Any:
    """Compute ln(1 + exp(x)) = max(x, 0) + ln(1 + exp(-|x|)) lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        small = _exp_of_minus_magnitude(builder, arguments[0])
        tail = builder.fmul(small, _polynomial(builder, LOG1P_COEFFICIENTS, small))
        return builder.fadd(_call(builder, "maxnum", arguments[0], _constant(0.0)), tail)

    return Lanes(Lanes), code


@intrinsic
def add_across(typingctx: Any, lanes: Any) -> Any:
    """Sum the 16 lanes, pairwise."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = arguments[0]
        for half in (8, 4, 2, 1):
            order = [(lane + half) % WIDTH for lane in range(WIDTH)]
            moved = builder.shuffle_vector(vector, vector, ir.Constant(_LANES_INT, order))
            vector = builder.fadd(vector, moved)
        return builder.extract_element(vector, ir.Constant(_INT, 0))

    return types.float32(Lanes), code


def _binary(instruction: str) -> Any:
    @intrinsic
    def compute(typingctx: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return Lanes(Lanes, Lanes), code

    return compute


_add, _multiply = _binary("fadd"), _binary("fmul")


@overload(operator.add, inline="always")
def _overload_add(a, b):  # type: ignore[no-untyped-def]  # numba compares the signatures literally
    return (lambda a, b: _add(a, b)) if a is Lanes and b is Lanes else None


@overload(operator.mul, inline="always")
def _overload_multiply(a, b):  # type: ignore[no-untyped-def]
    return (lambda a, b: _multiply(a, b)) if a is Lanes and b is Lanes else None
