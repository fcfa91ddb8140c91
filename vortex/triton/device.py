"""Small device functions that generated kernels call."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def larger(a, b):
    """The larger of two; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):
    """The smaller of two; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest(x, AXIS: tl.constexpr):
    """The largest along an axis; NaN if any is."""
    return tl.reduce(x, AXIS, larger)


@triton.jit
def smallest(x, AXIS: tl.constexpr):
    """The smallest along an axis; NaN if any is."""
    return tl.reduce(x, AXIS, smaller)


@triton.jit
def sign(x):
    """-1, 0 or 1; NaN of NaN."""
    found = tl.where(x > 0.0, 1.0, 0.0) - tl.where(x < 0.0, 1.0, 0.0)
    return tl.where(x != x, x, found)


@triton.jit
def tanh(x):
    """Hyperbolic tangent."""
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def nearest(x):
    """The nearest whole number, halves to even, for magnitudes below 2^22."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def low_bits(byte, second):
    """The first or the second four bits of a byte as a signed number."""
    bits = (byte.to(tl.int32) >> tl.where(second, 4, 0)) & 15
    return (bits - tl.where(bits > 7, 16, 0)).to(tl.float32)
