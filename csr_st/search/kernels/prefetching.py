"""A hint to the processor to fetch what is read soon. Needs numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes that are fetched together


def _prefetch(_typing_context: Any, array: Any, place: Any) -> Any:
    """Fetch the cache line of ``array[place]``, of one dimension and a 64-bit place."""
    if not (
        isinstance(array, types.Array) and array.ndim == 1 and place in (types.int64, types.uint64)
    ):
        return None

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        made = context.make_array(array)(context, builder, arguments[0])
        element = cgutils.get_item_pointer(  # type: ignore[no-untyped-call]
            context, builder, array, made, [arguments[1]], wraparound=False
        )
        pointer, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [pointer],
            ir.FunctionType(ir.VoidType(), [pointer, number, number, number]),
        )
        address = builder.bitcast(element, pointer)
        # To read, of high locality, data.
        builder.call(hint, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, place), generate


prefetch: Any = intrinsic(_prefetch)
