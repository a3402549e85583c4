"""Norms and products of a `step`: from rows of activations to rows as the next takes them."""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from tvm import relax
from tvm.ir import Expr, GlobalVar

from mlc_llm.compiler.abi import round_up
from mlc_llm.kernels.cpu.epilogue import GATED, Epilogue
from mlc_llm.kernels.cpu.layer_norm import layer_norm, layer_norm_quantize
from mlc_llm.kernels.cpu.linear_float import linear_float
from mlc_llm.kernels.cpu.linear_grouped import gated_grouped, linear_grouped
from mlc_llm.kernels.cpu.linear_heads import linear_heads
from mlc_llm.kernels.cpu.norm import rms_norm, rms_norm_add, rms_norm_quantize
from mlc_llm.kernels.cpu.quantize import quantize
from mlc_llm.models.parameters import ROW_BLOCK
from mlc_llm.models.step_emitter import (
    Emitter,
    Rows,
    Weight,
    Weights,
    floats,
    quantized_types,
)
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE, Codes


def norm(e: Emitter, x: Expr, weights: Weights, name: str, rows: Expr, codes: Codes | None) -> Rows:
    """The normalised rows as a product with such weights wants them."""
    hidden, eps = e.arch.hidden_size, e.arch.rms_norm_eps
    args = [x, *weights[f"{name}.weight"].tensors]
    if e.arch.norm_bias:
        args += weights[f"{name}.bias"].tensors
    if e.arch.norm == "layer":
        sizes: tuple[object, ...] = (hidden, eps, e.arch.norm_bias)
        plain, quantizing = layer_norm, layer_norm_quantize
    else:
        sizes = (hidden, eps) if codes else (hidden, e.hidden, eps)
        plain, quantizing = rms_norm, rms_norm_quantize
    if codes:
        kernel = e.kernel(quantizing.__name__, quantizing, *sizes, codes)
        tensors = e.fields(kernel, args, quantized_types(rows, hidden))
        return Rows(tensors, e.hidden)
    kernel = e.kernel(plain.__name__, plain, *sizes)
    return Rows([e.call(kernel, args, floats(rows, e.hidden))], e.hidden)


def norm_add(e: Emitter, x: Expr, weight: Weight, residual: Expr) -> Expr:
    """The residual plus normalised rows."""
    hidden, eps = e.arch.hidden_size, e.arch.rms_norm_eps
    kernel = e.kernel("rms_norm_add", rms_norm_add, hidden, eps)
    return e.call(kernel, [x, *weight.tensors, residual], floats(e.n, hidden))


def quantized(e: Emitter, x: Expr, cols: int) -> Rows:
    """Rows of activations as a product wants them."""
    if e.codes is None:
        return Rows([x], cols)
    kernel = e.kernel(f"quantize_{cols}", quantize, cols, e.codes)
    return Rows(e.fields(kernel, [x], quantized_types(e.n, cols)), cols)


def _product(
    e: Emitter,
    weight: Weight,
    epilogue: Epilogue,
    num_rows: int,
    cols: int,
    bias: bool = False,
    softcap: float | None = None,
) -> GlobalVar:
    finish = "_".join([epilogue, *(["bias"] if bias else []), *(["cap"] if softcap else [])])
    sizes = (weight.spec.num_blocks, cols, num_rows, epilogue, bias, softcap)
    weights = e.scheme.format_of(weight.spec.name)
    kind = "" if weights == e.scheme.weights else f"_{weights}"
    name = f"linear_{finish}_{num_rows}_{cols}{kind}"
    if codes := CODES.get(weights):
        return e.kernel(name, linear_grouped, codes, *sizes)
    return e.kernel(name, linear_float, weights, *sizes)


def linear(
    e: Emitter,
    x: Rows,
    weights: Weights,
    name: str,
    epilogue: Epilogue,
    residual: Expr | None = None,
) -> Expr:
    """The named product of rows, with its bias if it has one."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    rows = weight.spec.rows
    kernel = _product(e, weight, epilogue, rows, x.cols, bias is not None)
    more = [*(bias.tensors if bias else ()), *([] if residual is None else [residual])]
    return e.call(kernel, [*x.tensors, *weight.tensors, *more], floats(e.n, rows))


def gated(e: Emitter, read: Rows, weight: Weight, epilogue: Epilogue) -> Rows:
    """act(gate) * up as a product wants it: as many columns as the padded intermediate size."""
    inner = round_up(weight.spec.rows // 2, GROUP_SIZE)
    if e.codes is None:
        kernel = _product(e, weight, epilogue, weight.spec.rows, read.cols)
        args = [*read.tensors, *weight.tensors]
        return Rows([e.call(kernel, args, floats(e.n, inner))], inner)
    blocks, rows = weight.spec.num_blocks, weight.spec.rows
    name = f"linear_{epilogue}_{rows}_{read.cols}"
    kernel = e.kernel(name, gated_grouped, e.codes, blocks, read.cols, epilogue)
    args = [*read.tensors, *weight.tensors, e.n]
    return Rows(e.fields(kernel, args, quantized_types(e.n, inner)), inner)


def linear_of_heads(e: Emitter, x: Expr, weight: Weight, stride: int) -> Expr:
    """The product of every head of x, which has `stride` columns, with its own matrix."""
    spec = weight.spec
    sizes = (spec.stack, spec.one.rows, spec.cols, stride)
    kind = e.scheme.format_of(spec.name)
    kernel = e.kernel(f"linear_heads_{spec.one.rows}_{spec.cols}", linear_heads, kind, *sizes)
    return e.call(kernel, [x, *weight.tensors], floats(e.n, spec.rows))


def logits_of(e: Emitter, x: Rows, head: Weight, logits: relax.Var) -> Expr:
    """The last product writes into the caller's memory."""
    rows = round_up(head.spec.rows, ROW_BLOCK)
    kernel = _product(e, head, "store", rows, x.cols, softcap=e.arch.logit_softcap)
    args = relax.Tuple([*x.tensors, *head.tensors, logits])
    place = len(args.fields) - 1
    return e.blocks.emit(relax.op.call_tir_inplace(kernel, args, place, logits.ty))


def inner_rows(e: Emitter, read: Rows, weights: Weights) -> Rows:
    """What the MLP makes of rows, before its last projection."""
    act = e.arch.activation
    if e.arch.gated:
        return gated(e, read, weights["mlp.gate_up_proj.weight"], GATED[act])
    plain = linear(e, read, weights, "mlp.up_proj", act)
    return quantized(e, plain, e.arch.intermediate_size)
