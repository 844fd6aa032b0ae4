"""The innermost steps of the hash grid on a CPU, in vector instructions that numba does not find by itself.

:func:`corners` works out eight points at once in registers; :func:`gathered` and :func:`scattered` read, weigh and write
the two features of a table's entry, which lie side by side, as one. They are written in LLVM's own terms, for any
processor that it knows. Left to the compiler, a pass takes up to twice as long.

Arrays are flat and corner by corner: corner k of a chunk's point j is at ``k * CHUNK + j``; corner number =
x + 2 y + 4 z. numba's cache does not see changes of this file: touch ``hash_kernels.py``, whose functions these become
part of.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types

intrinsic: Any = extending.intrinsic  # it gives functions one argument less, which mypy counts otherwise

CHUNK = 64  # points whose corners are worked out before the table is read: 4 kB
LANES = 8  # points at once
CORNERS = 8
_PRIMES = (2654435761, 805459861)

_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_PAIR, _QUAD = ir.VectorType(_FLOAT, 2), ir.VectorType(_FLOAT, 4)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)


def _data(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    """The first element's address of an argument that is an array."""
    return context.make_array(signature.args[number])(context, builder, arguments[number]).data


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def _in_all(builder: Any, value: Any, kind: Any) -> Any:
    """A vector of one number."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT(0))
    return _shuffle(builder, first, first, [0] * kind.count)


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _read(builder: Any, where: Any, kind: Any) -> Any:
    value = builder.load(builder.bitcast(where, kind.as_pointer()))
    value.align = 4
    return value


def _write(builder: Any, value: Any, where: Any) -> None:
    builder.store(value, builder.bitcast(where, value.type.as_pointer())).align = 4


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    name = f"llvm.fmuladd.v{a.type.count}f32"
    known = builder.module.globals.get(name)
    function = known or ir.Function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


def _smallest(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned("<", a, b), a, b)


@intrinsic
def corners(
    typing: Any, xs: Any, ys: Any, zs: Any, first: Any, place: Any,
    scale: Any, smooth: Any, dense: Any, resolution: Any, size: Any, entries: Any, weights: Any,
) -> Any:  # fmt: skip
    """Table entries and weights of the corners around the points ``first`` to ``first + LANES``.

    Args:
        xs, ys, zs: float32 in [0, 1].
        first, place: uint64; of the points, and where in the chunk their corners go.
        scale, smooth, dense, resolution, size: of the level: float32, bool, bool, uint32, uint32.
        entries, weights: uint32 and float32, written.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        entries, weights = (_data(context, builder, signature, arguments, n) for n in (10, 11))
        first, place, scale, smooth, dense, resolution, size = arguments[3:10]
        scales = _in_all(builder, scale, _FLOATS)
        one, half = _constant(_FLOATS, 1.0), _constant(_FLOATS, 0.5)
        cells, shares = [], []
        for axis in range(3):
            points = _data(context, builder, signature, arguments, axis)
            x = _read(builder, builder.gep(points, [first]), _FLOATS)
            position = _multiply_add(builder, x, scales, half)
            cell = builder.fptosi(position, _INTS)
            f = builder.fsub(position, builder.sitofp(cell, _FLOATS))
            # f^2 (3 - 2 f)
            slow = _multiply_add(builder, _constant(_FLOATS, -2.0), f, _constant(_FLOATS, 3.0))
            slow = builder.fmul(builder.fmul(f, f), slow)
            f = builder.select(smooth, slow, f)
            cells.append(cell)
            shares.append((builder.fsub(one, f), f))

        def target(array: Any, k: int) -> Any:
            return builder.gep(array, [builder.add(place, _LONG(k * CHUNK))])

        flat = [builder.fmul(shares[0][k & 1], shares[1][k >> 1]) for k in range(4)]
        for k in range(CORNERS):
            _write(builder, builder.fmul(flat[k & 3], shares[2][k >> 2]), target(weights, k))

        def steps(times: list[Any]) -> list[tuple[Any, Any]]:
            """What each axis adds to an entry's number, at its lower and at its upper corner."""
            low = [cells[0], *(builder.mul(c, t) for c, t in zip(cells[1:], times, strict=True))]
            return [(a, builder.add(a, t)) for a, t in zip(low, [_constant(_INTS, 1), *times], strict=True)]

        counts = _in_all(builder, size, _INTS)
        with builder.if_else(dense) as (numbered, hashed):
            with numbered:
                layer = builder.mul(resolution, resolution)
                x, y, z = steps([_in_all(builder, n, _INTS) for n in (resolution, layer)])
                for k in range(CORNERS):
                    entry = builder.add(builder.add(x[k & 1], y[k >> 1 & 1]), z[k >> 2])
                    # Beyond the table only in the last half cell before the far border, by less than its size.
                    entry = _smallest(builder, entry, builder.sub(entry, counts))
                    _write(builder, entry, target(entries, k))
            with hashed:
                mask = builder.sub(counts, _constant(_INTS, 1))
                x, y, z = steps([_constant(_INTS, prime) for prime in _PRIMES])
                for k in range(CORNERS):
                    entry = builder.xor(builder.xor(y[k >> 1 & 1], z[k >> 2]), x[k & 1])
                    _write(builder, builder.and_(entry, mask), target(entries, k))
        return context.get_dummy_value()

    signature = types.void(
        xs, ys, zs, types.uint64, types.uint64,
        types.float32, types.boolean, types.boolean, types.uint32, types.uint32, entries, weights,
    )  # fmt: skip
    return signature, code


class _Corners:
    """A point's corners, and the pairs of the table there."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self._builder, self._place = builder, arguments[3]
        part, entries, weights = (_data(context, builder, signature, arguments, n) for n in range(3))
        self._part, self._entries, self._weights = part, entries, weights

    def _at(self, array: Any, k: int) -> Any:
        where = self._builder.add(self._place, _LONG(k * CHUNK))
        return self._builder.load(self._builder.gep(array, [where]))

    def weight(self, k: int) -> Any:
        """Twice."""
        return _in_all(self._builder, self._at(self._weights, k), _PAIR)

    def pair(self, k: int) -> tuple[Any, Any]:
        """Where it is, and what it is."""
        entry = self._builder.zext(self._at(self._entries, k), _LONG)
        where = self._builder.gep(self._part, [self._builder.shl(entry, _LONG(1))])
        return where, _read(self._builder, where, _PAIR)


@intrinsic
def gathered(typing: Any, part: Any, entries: Any, weights: Any, place: Any) -> Any:
    """Sum of the pairs at a point's corners, by their weights: two float32.

    Args:
        part: float32; pair ``e`` lies at ``2 e`` and ``2 e + 1``.
        entries, weights: of a chunk, uint32 and float32.
        place: of the point in the chunk, uint64.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = _Corners(context, builder, signature, arguments)
        total = _constant(_QUAD, 0.0)
        for k in range(0, CORNERS, 2):
            pairs = _shuffle(builder, at.pair(k)[1], at.pair(k + 1)[1], [0, 1, 2, 3])
            by = _shuffle(builder, at.weight(k), at.weight(k + 1), [0, 1, 2, 3])
            total = _multiply_add(builder, by, pairs, total)
        found = builder.fadd(*(_shuffle(builder, total, total, lanes) for lanes in ([0, 1], [2, 3])))
        numbers = [builder.extract_element(found, _INT(lane)) for lane in (0, 1)]
        return context.make_tuple(builder, signature.return_type, numbers)

    return types.UniTuple(types.float32, 2)(part, entries, weights, types.uint64), code


@intrinsic
def gathered_four(
    typing: Any, part: Any, entries: Any, weights: Any, place: Any, first: Any, second: Any, where: Any
) -> Any:
    """:func:`gathered` of four points in a row, which are written; the same numbers, bit for bit.

    Arguments as of :func:`gathered`; ``place`` is that of the first point, and:
        first, second: float32, written from ``where`` (uint64) on.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights = _data(context, builder, signature, arguments, 2)
        points = [
            _Corners(context, builder, signature, [*arguments[:3], builder.add(arguments[3], _LONG(n))])
            for n in range(4)
        ]
        # Of even and of odd corners, as a single point has them in its halves.
        sums = [_constant(_FLOATS, 0.0), _constant(_FLOATS, 0.0)]
        for k in range(CORNERS):
            pairs = [point.pair(k)[1] for point in points]
            low, high = (_shuffle(builder, pairs[n], pairs[n + 1], [0, 1, 2, 3]) for n in (0, 2))
            four = _read(builder, builder.gep(weights, [builder.add(arguments[3], _LONG(k * CHUNK))]), _QUAD)
            by = _shuffle(builder, four, four, [0, 0, 1, 1, 2, 2, 3, 3])
            sums[k & 1] = _multiply_add(builder, by, _shuffle(builder, low, high, list(range(8))), sums[k & 1])
        found = builder.fadd(sums[0], sums[1])
        for feature in (0, 1):
            out = _data(context, builder, signature, arguments, 4 + feature)
            numbers = _shuffle(builder, found, found, [feature + 2 * n for n in range(4)])
            _write(builder, numbers, builder.gep(out, [arguments[6]]))
        return context.get_dummy_value()

    return types.void(part, entries, weights, types.uint64, first, second, types.uint64), code


@intrinsic
def scattered(typing: Any, part: Any, entries: Any, weights: Any, place: Any, a: Any, b: Any) -> Any:
    """Adds ``(a, b)`` to the pairs at a point's corners, by their weights, one after the other.

    Arguments as of :func:`gathered`, and two float32.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = _Corners(context, builder, signature, arguments)
        given = ir.Constant(_PAIR, ir.Undefined)
        for lane in (0, 1):
            given = builder.insert_element(given, arguments[4 + lane], _INT(lane))
        for k in range(CORNERS):
            where, pair = at.pair(k)
            _write(builder, _multiply_add(builder, at.weight(k), given, pair), where)
        return context.get_dummy_value()

    return types.void(part, entries, weights, types.uint64, types.float32, types.float32), code
