"""Vectors of float32 numbers for numba: the few instructions that the kernels are made of.

numba has no vector type, and LLVM does not reliably turn a loop over channels into vector instructions. So this file
gives numba two types. `Lanes` is 16 neighbouring channels (LLVM's <16 x float>), which LLVM maps to one AVX-512
register, two AVX, or four SSE or NEON ones. `Block` is 4 states of 16 channels, state by state: 4 `Lanes` that are
worked on side by side, so that a long chain of instructions on one does not wait for itself.

    load(array, row, column)            Lanes: 16 numbers of a C-contiguous 2-D float32 array, from [row, column]
    load_block(array, row)              Block: the 64 numbers of a row
    load_states(array, row, column)     Block: 16 numbers from [row, column], and from the 3 rows below
    store, store_states                 the way back; `store` takes both types
    prefetch(array, row, column)        brings the cache line of [row, column] near; it may lie beyond the array
    fill(number)                        Lanes: the same number in every lane
    spread(array, row, column)          Block: 4 neighbouring numbers, each in 16 lanes
    repeat(lanes)                       Block: the same Lanes for every state
    add_states(block)                   Lanes: sum of the 4 states
    add_across(lanes)                   a number: the sum over the lanes
    add_sums(array, row, column, block) adds the sum over the lanes of each state to 4 numbers from [row, column]
    muladd(a, b, c)                     a * b + c, one rounding where the processor can (llvm.fmuladd, not llvm.fma:
                                        that one becomes a library call on processors without it)
    take_greater(a, b, x, y)            x where a > b or a is not a number, else y
    sigmoid(x), softplus(x)             any x, within 3e-7 relative
    exp2(x)                             2 ** x for x <= 0, within 2e-7: round to the nearest whole number, which
                                        goes into the exponent bits, and a polynomial of degree 5 for the rest

Operators + and * work between two values of one type. Only `add_across` and `add_sums` add neighbouring channels.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16
STATES = 4
_FLOAT, _INT, _INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)

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
    """Type of 16 float32 numbers side by side, for one or for several states."""

    def __init__(self, states: int) -> None:
        super().__init__(name=f"Lanes(float32 x {states * WIDTH})")
        self.states = states


Lanes, Block = LanesType(1), LanesType(STATES)


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, ir.VectorType(_FLOAT, frontend_type.states * WIDTH))


def _constant(like: Any, value: float) -> Any:
    """Repeat a constant in a vector of the type of `like`."""
    return ir.Constant(like.type, [ir.Constant(_FLOAT, value)] * like.type.count)


def _select(builder: Any, vector: Any, lanes: list[int]) -> Any:
    """Make a vector of those lanes of another."""
    order = ir.Constant(ir.VectorType(_INT, len(lanes)), lanes)
    return builder.shuffle_vector(vector, vector, order)


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    """Call an LLVM intrinsic on whole vectors."""
    vector = arguments[0].type
    signature = ir.FunctionType(vector, [vector] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{vector.count}f32")
    return builder.call(function, arguments)


def _place(context: Any, builder: Any, array_type: Any, array: Any, row: Any, column: Any) -> tuple[Any, Any]:
    """Address of array[row, column], and the number of columns."""
    native = context.make_array(array_type)(context, builder, array)
    columns = cgutils.unpack_tuple(builder, native.shape)[1]
    return builder.gep(native.data, [builder.add(builder.mul(row, columns), column)]), columns


def _read(builder: Any, address: Any, count: int) -> Any:
    result = builder.load(builder.bitcast(address, ir.VectorType(_FLOAT, count).as_pointer()))
    result.align = 4
    return result


def _write(builder: Any, address: Any, vector: Any) -> None:
    builder.store(vector, builder.bitcast(address, vector.type.as_pointer())).align = 4


def _states(builder: Any, block: Any) -> list[Any]:
    """Cut a block in its states."""
    return [_select(builder, block, list(range(n * WIDTH, (n + 1) * WIDTH))) for n in range(STATES)]


# ------------------------------------------------------------------------------------------------------------- memory


@intrinsic
def load(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Read 16 neighbouring numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _read(builder, _place(context, builder, signature.args[0], *arguments)[0], WIDTH)

    return Lanes(array, types.intp, types.intp), code


@intrinsic
def load_block(typingctx: Any, array: Any, row: Any) -> Any:
    """Read a row of 64 numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _place(context, builder, signature.args[0], *arguments, ir.Constant(_INDEX, 0))[0]
        return _read(builder, start, STATES * WIDTH)

    return Block(array, types.intp), code


@intrinsic
def load_states(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Read 16 neighbouring numbers of each of 4 rows."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, columns = _place(context, builder, signature.args[0], *arguments)
        rows = []
        for _ in range(STATES):
            rows.append(_read(builder, address, WIDTH))
            address = builder.gep(address, [columns])
        while len(rows) > 1:  # join neighbours
            whole = ir.Constant(ir.VectorType(_INT, 2 * rows[0].type.count), list(range(2 * rows[0].type.count)))
            rows = [builder.shuffle_vector(a, b, whole) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    return Block(array, types.intp, types.intp), code


@intrinsic
def store(typingctx: Any, array: Any, row: Any, column: Any, value: Any) -> Any:
    """Write the numbers side by side."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _write(builder, _place(context, builder, signature.args[0], *arguments[:3])[0], arguments[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), code


@intrinsic
def store_states(typingctx: Any, array: Any, row: Any, column: Any, block: Any) -> Any:
    """Write the states to neighbouring rows."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, columns = _place(context, builder, signature.args[0], *arguments[:3])
        for lanes in _states(builder, arguments[3]):
            _write(builder, address, lanes)
            address = builder.gep(address, [columns])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, Block), code


@intrinsic
def prefetch(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Bring the cache line of array[row, column] near; the place may lie beyond the array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _place(context, builder, signature.args[0], *arguments)[0]
        pointer = builder.bitcast(address, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(
            function, [pointer, *(ir.Constant(_INT, number) for number in (0, 2, 1))]
        )  # to read; level 2; data
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), code


@intrinsic
def add_sums(typingctx: Any, array: Any, row: Any, column: Any, block: Any) -> Any:
    """Add the sum over the 16 lanes of each state, pairwise, to 4 neighbouring numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _place(context, builder, signature.args[0], *arguments[:3])[0]
        sums = _add_lanes(builder, arguments[3], STATES)
        _write(builder, address, builder.fadd(_read(builder, address, STATES), sums))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, Block), code


# ---------------------------------------------------------------------------------------- from one shape to another


@intrinsic
def fill(typingctx: Any, number: Any) -> Any:
    """Repeat one number in every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        nothing = ir.Constant(ir.VectorType(_FLOAT, WIDTH), ir.Undefined)
        return _select(builder, builder.insert_element(nothing, arguments[0], ir.Constant(_INT, 0)), [0] * WIDTH)

    return Lanes(types.float32), code


@intrinsic
def spread(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Read 4 neighbouring numbers, and repeat each in 16 lanes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = _read(builder, _place(context, builder, signature.args[0], *arguments)[0], STATES)
        return _select(builder, numbers, [lane // WIDTH for lane in range(STATES * WIDTH)])

    return Block(array, types.intp, types.intp), code


@intrinsic
def repeat(typingctx: Any, lanes: Any) -> Any:
    """Use the same lanes for every state."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _select(builder, arguments[0], list(range(WIDTH)) * STATES)

    return Block(Lanes), code


@intrinsic
def add_states(typingctx: Any, block: Any) -> Any:
    """Sum the states, pairwise."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, c, d = _states(builder, arguments[0])
        return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))

    return Lanes(Block), code


@intrinsic
def add_across(typingctx: Any, lanes: Any) -> Any:
    """Sum the 16 lanes, pairwise."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(_add_lanes(builder, arguments[0], 1), ir.Constant(_INT, 0))

    return types.float32(Lanes), code


def _add_lanes(builder: Any, total: Any, states: int) -> Any:
    """Sum the 16 lanes of each state, pairwise: a vector of one number a state."""
    width = WIDTH
    while width > 1:
        half = width // 2
        low = [n * width + i for n in range(states) for i in range(half)]
        high = [lane + half for lane in low]
        total, width = builder.fadd(_select(builder, total, low), _select(builder, total, high)), half
    return total


# --------------------------------------------------------------------------------------------------------- arithmetic


@intrinsic
def muladd(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute a * b + c lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "fmuladd", *arguments)

    return a(a, a, a), code


@intrinsic
def take_greater(typingctx: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """Take x in the lanes where a > b or a is not a number, else y."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, x, y = arguments
        taken = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(taken, x, y)

    return a(a, a, a, a), code


def _exp2(builder: Any, x: Any) -> Any:
    x = _call(builder, "maxnum", x, _constant(x, SMALLEST_EXPONENT))
    shifted = builder.fadd(x, _constant(x, ROUNDER))
    rest = builder.fsub(x, builder.fsub(shifted, _constant(x, ROUNDER)))
    power = _polynomial(builder, EXP2_COEFFICIENTS, rest)
    bits = ir.VectorType(_INT, x.type.count)
    exponent = builder.shl(builder.bitcast(shifted, bits), ir.Constant(bits, [23] * x.type.count))
    return builder.bitcast(builder.add(builder.bitcast(power, bits), exponent), x.type)


def _polynomial(builder: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    """Evaluate a polynomial, lowest power first, by Horner's rule."""
    total = _constant(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = _call(builder, "fmuladd", total, x, _constant(x, coefficient))
    return total


def _exp_of_minus_magnitude(builder: Any, x: Any) -> Any:
    """Compute exp(-|x|), which neither overflows nor loses digits."""
    return _exp2(builder, builder.fmul(_call(builder, "fabs", x), _constant(x, -LOG2_E)))


@intrinsic
def exp2(typingctx: Any, x: Any) -> Any:
    """Compute 2 ** x lane by lane, x <= 0."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _exp2(builder, arguments[0])

    return x(x), code


@intrinsic
def sigmoid(typingctx: Any, x: Any) -> Any:
    """Compute 1 / (1 + exp(-x)) lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x = arguments[0]
        small = _exp_of_minus_magnitude(builder, x)
        positive = builder.fcmp_ordered(">=", x, _constant(x, 0.0))
        above = builder.select(positive, _constant(x, 1.0), small)
        return builder.fdiv(above, builder.fadd(small, _constant(x, 1.0)))

    return x(x), code


@intrinsic
def softplus(typingctx: Any, x: Any) -> Any:
    """Compute ln(1 + exp(x)) = max(x, 0) + ln(1 + exp(-|x|)) lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x = arguments[0]
        small = _exp_of_minus_magnitude(builder, x)
        tail = builder.fmul(small, _polynomial(builder, LOG1P_COEFFICIENTS, small))
        return builder.fadd(_call(builder, "maxnum", x, _constant(x, 0.0)), tail)

    return x(x), code


def _binary(instruction: str) -> Any:
    @intrinsic
    def compute(typingctx: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return a(a, a), code

    return compute


_add, _multiply = _binary("fadd"), _binary("fmul")


def _both_vectors(a: Any, b: Any) -> bool:
    return isinstance(a, LanesType) and a is b


@overload(operator.add, inline="always")
def _overload_add(a, b):  # type: ignore[no-untyped-def]  # numba compares the signatures literally
    return (lambda a, b: _add(a, b)) if _both_vectors(a, b) else None


@overload(operator.mul, inline="always")
def _overload_multiply(a, b):  # type: ignore[no-untyped-def]
    return (lambda a, b: _multiply(a, b)) if _both_vectors(a, b) else None
