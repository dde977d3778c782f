"""A value of 16 lanes for jitted code: one number for each right image of a block.

A loop over lanes is vector code only where LLVM can prove, pixel by pixel at run time, that arrays do not overlap.
With a type of its own the vector is explicit: a loop visits pixels, and its body reads like that of scalars.
``+ - * /`` and the functions below take lanes, and scalars beside them, which count as lanes of one value in the dtype
of the others: a formula needs no constants of its own for each dtype.

Memory is addressed by pointers, since a slice of an array costs a reference count (some 10 ns); a pointer must not
outlive its array. Nothing here checks bounds.
Floating-point flags are those of `kernels.jit`; a lane never sees another. A product and a sum are rounded
once only where `multiply_add` says so: were it left to the compiler, the bits of a value would depend on the other
uses of its product: the bits of an NNGP on whether the NTK is read out beside it.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
"""One AVX-512 register in float32; also in float64, where LLVM splits them into vectors as the processor has them."""

_FLAGS = ("nsz",)


class LanesType(types.Type):
    """The numba type of 16 numbers of a dtype.

    Parameters
    ----------
    dtype : numba.types.Float
        The float32 or float64 of numba.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_element(fe_type.dtype), LANES))


def _element(dtype: Any) -> Any:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def _common(*kinds: Any) -> Any:
    """Return the lanes among the types, or None where there are none, or of two dtypes, or something is no number."""
    found = {kind for kind in kinds if isinstance(kind, LanesType)}
    if len(found) != 1 or not all(isinstance(kind, LanesType | types.Number) for kind in kinds):
        return None
    return found.pop()


def _spread(context: Any, builder: Any, value: Any, kind: Any, common: Any) -> Any:
    """Repeat a scalar in all lanes."""
    if kind == common:
        return value
    value = context.cast(builder, value, kind, common.dtype)
    vector = ir.VectorType(_element(common.dtype), LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _call(builder: Any, name: str, *values: Any) -> Any:
    """Call one of LLVM's own functions on values of one type."""
    kind = values[0].type
    bits = "f32" if kind.element == ir.FloatType() else "f64"
    declared = ir.FunctionType(kind, [kind] * len(values))
    function = cgutils.get_or_insert_function(builder.module, declared, f"llvm.{name}.v{LANES}{bits}")
    return builder.call(function, values, fastmath=_FLAGS)


def _define_operator(function: Any, instruction: str) -> None:
    """Teach numba an operator between lanes, and between lanes and a scalar."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            common = _common(*args) if len(args) == 2 else None
            return None if common is None else signature(common, *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(args, sig.args, strict=True)
        a, b = (_spread(context, builder, value, kind, sig.return_type) for value, kind in pairs)
        return getattr(builder, instruction)(a, b, flags=_FLAGS)

    infer_global(function)(Template)
    for kinds in ((LanesType, LanesType), (LanesType, types.Number), (types.Number, LanesType)):
        lower_builtin(function, *kinds)(lower)


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")


@infer_global(operator.neg)
class _Negation(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(args[0], *args) if len(args) == 1 and isinstance(args[0], LanesType) else None


@lower_builtin(operator.neg, LanesType)
def _negate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(args[0])


def _pointwise(kinds: tuple[Any, ...], emit: Callable[..., Any]) -> Any:
    """Return what an intrinsic returns, for a function of numbers of one dtype."""
    common = _common(*kinds)
    if common is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(args, kinds, strict=True)
        return emit(builder, *(_spread(context, builder, value, kind, common) for value, kind in pairs))

    return common(*kinds), codegen


@intrinsic
def absolute(typing_context: Any, x: Any) -> Any:
    """Drop the sign."""
    return _pointwise((x,), lambda builder, x: _call(builder, "fabs", x))


@intrinsic
def square_root(typing_context: Any, x: Any) -> Any:
    """Take the square root, correctly rounded."""
    return _pointwise((x,), lambda builder, x: _call(builder, "sqrt", x))


@intrinsic
def copy_sign(typing_context: Any, size: Any, sign: Any) -> Any:
    """Give ``size`` the sign of ``sign``."""
    return _pointwise((size, sign), lambda builder, x, y: _call(builder, "copysign", x, y))


@intrinsic
def multiply_add(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """Evaluate ``x y + z``, rounded once on processors that can, which all with AVX2 can."""
    return _pointwise((x, y, z), lambda builder, x, y, z: _call(builder, "fmuladd", x, y, z))


@intrinsic
def polynomial(typing_context: Any, coefficients: Any, x: Any) -> Any:
    """Evaluate ``c[0] + c[1] x + ...`` of a tuple by Horner's rule, each step rounded once.

    Of more than eight, even and odd powers are summed side by side, since one long chain waits on itself.
    """
    if not isinstance(coefficients, types.UniTuple) or not isinstance(x, LanesType):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def chain(terms: list[Any], power: Any) -> Any:
            total = terms[-1]
            for term in reversed(terms[:-1]):
                total = _call(builder, "fmuladd", total, power, term)
            return total

        terms = [
            _spread(context, builder, term, coefficients.dtype, x) for term in cgutils.unpack_tuple(builder, args[0])
        ]
        if len(terms) <= 8:
            return chain(terms, args[1])
        square = builder.fmul(args[1], args[1], flags=_FLAGS)
        return _call(builder, "fmuladd", args[1], chain(terms[1::2], square), chain(terms[::2], square))

    return x(coefficients, x), codegen


@intrinsic
def minimum(typing_context: Any, x: Any, bound: Any) -> Any:
    """Take the smaller of two; where ``x`` is not a number, ``x``."""
    return _pointwise((x, bound), lambda builder, x, y: builder.select(builder.fcmp_ordered("<", y, x), y, x))


@intrinsic
def where_negative(typing_context: Any, x: Any, negative: Any, other: Any) -> Any:
    """Pick ``negative`` where ``x < 0``, and ``other`` elsewhere, at zeros of both signs too."""

    def emit(builder: Any, x: Any, negative: Any, other: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", x, ir.Constant(x.type, None)), negative, other)

    return _pointwise((x, negative, other), emit)


@intrinsic
def where_positive(typing_context: Any, x: Any, positive: Any, other: Any) -> Any:
    """Pick ``positive`` where ``x > 0``, and ``other`` elsewhere."""

    def emit(builder: Any, x: Any, positive: Any, other: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", x, ir.Constant(x.type, None)), positive, other)

    return _pointwise((x, positive, other), emit)


@intrinsic
def nearest(typing_context: Any, x: Any) -> Any:
    """Round to the nearest whole number, halves to the even one."""
    return _pointwise((x,), lambda builder, x: _call(builder, "rint", x))


@intrinsic
def power_of_two(typing_context: Any, n: Any) -> Any:
    """Evaluate ``2^n`` of whole numbers n within the exponents of the dtype."""

    def emit(builder: Any, n: Any) -> Any:
        bits, digits, bias = (32, 23, 127) if n.type.element == ir.FloatType() else (64, 52, 1023)
        whole = ir.VectorType(ir.IntType(bits), LANES)
        exponent = builder.add(builder.fptosi(n, whole), ir.Constant(whole, [bias] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(whole, [digits] * LANES)), n.type)

    return _pointwise((n,), emit)


@intrinsic
def broadcast(typing_context: Any, x: Any, like: Any) -> Any:
    """Repeat a number in all lanes, in the dtype of an array or pointer."""
    if not (isinstance(x, types.Number) and isinstance(like, types.Array | types.CPointer)):
        return None
    lanes = LanesType(like.dtype)
    return lanes(x, like), lambda context, builder, sig, args: _spread(context, builder, args[0], x, lanes)


@intrinsic
def widen(typing_context: Any, x: Any) -> Any:
    """Convert lanes to float64, exactly."""
    if not isinstance(x, LanesType):
        return None
    vector = ir.VectorType(ir.DoubleType(), LANES)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if x.dtype == types.float64 else builder.fpext(args[0], vector)

    return LanesType(types.float64)(x), codegen


@intrinsic
def narrow(typing_context: Any, x: Any, like: Any) -> Any:
    """Convert lanes of float64 to the dtype of a pointer."""
    if x != LanesType(types.float64) or not isinstance(like, types.CPointer):
        return None
    vector = ir.VectorType(_element(like.dtype), LANES)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if like.dtype == types.float64 else builder.fptrunc(args[0], vector)

    return LanesType(like.dtype)(x, like), codegen


@intrinsic
def address(typing_context: Any, array: Any, index: Any) -> Any:
    """Point to an element of a C-contiguous array, or of what a pointer points to, by its flat index."""
    if not isinstance(index, types.Integer):
        return None
    if not isinstance(array, types.CPointer) and not (isinstance(array, types.Array) and array.layout == "C"):
        return None
    target = array.dtype
    pointer = types.CPointer(target)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base = args[0]
        if isinstance(array, types.Array):
            base = context.make_array(array)(context, builder, args[0]).data
        base = builder.bitcast(base, context.get_value_type(pointer))
        return builder.gep(base, [args[1]], source_etype=context.get_value_type(target))

    return pointer(array, index), codegen


@intrinsic
def load(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Read lanes that begin ``index`` elements behind a pointer, at any alignment of an element."""
    if not isinstance(pointer, types.CPointer):
        return None
    lanes = LanesType(pointer.dtype)
    return lanes(pointer, index), lambda context, builder, sig, args: builder.load(
        _vector_at(builder, pointer.dtype, *args), align=pointer.dtype.bitwidth // 8
    )


@intrinsic
def store(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write lanes where `load` would read them."""
    if not isinstance(pointer, types.CPointer) or value != LanesType(pointer.dtype):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _vector_at(builder, pointer.dtype, *args[:2]), align=pointer.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, index, value), codegen


def _vector_at(builder: Any, dtype: Any, pointer: Any, index: Any) -> Any:
    element = builder.gep(pointer, [index], source_etype=_element(dtype))
    return builder.bitcast(element, ir.VectorType(_element(dtype), LANES).as_pointer())


@intrinsic
def load_repeated(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Read one number, repeated in all lanes."""
    if not isinstance(pointer, types.CPointer):
        return None
    lanes = LanesType(pointer.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = builder.gep(args[0], [args[1]], source_etype=_element(pointer.dtype))
        value = builder.load(element, align=pointer.dtype.bitwidth // 8)
        return _spread(context, builder, value, pointer.dtype, lanes)

    return lanes(pointer, index), codegen


@intrinsic
def call(typing_context: Any, function: Any, pointers: Any) -> Any:
    """Call a compiled function that returns nothing, given its address, on a tuple of pointers."""
    if not isinstance(function, types.Integer) or not isinstance(pointers, types.BaseTuple):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        arguments = cgutils.unpack_tuple(builder, values[1])
        declared = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(builder.inttoptr(values[0], declared.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(function, pointers), codegen
