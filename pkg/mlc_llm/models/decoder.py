"""A decoder as a Relax function: the `step` of `compiler.abi`, made of our kernels.

Every operation is one call of a kernel that all layers share; which layer it is reaches the kernels
that touch the KV pool as a number. Bindings run in the order they are written: `rope_append`
changes the pool in place, and `attention` of the same layer, which takes its result, reads it.
"""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tvm
from tvm import relax, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from mlc_llm.compiler.abi import MAX_ROWS, PAGE_SIZE, STEP, TILE_ROWS, round_up
from mlc_llm.kernels.cpu.attention import attention
from mlc_llm.kernels.cpu.embed import embed, prompt_ends, take_rows
from mlc_llm.kernels.cpu.experts import experts_add, experts_gated
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.latent import latent_append, latent_attention
from mlc_llm.kernels.cpu.layer_norm import layer_norm, layer_norm_quantize
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.linear_float import linear_float
from mlc_llm.kernels.cpu.linear_grouped import gated_grouped, linear_grouped
from mlc_llm.kernels.cpu.linear_heads import linear_heads
from mlc_llm.kernels.cpu.matmul import GATED, Epilogue
from mlc_llm.kernels.cpu.norm import rms_norm, rms_norm_add, rms_norm_quantize
from mlc_llm.kernels.cpu.quantize import quantize
from mlc_llm.kernels.cpu.rope import Rotation, rope_append
from mlc_llm.kernels.cpu.route import add_weighted, group_by_expert, route
from mlc_llm.models.architecture import Architecture, Experts, Latent
from mlc_llm.models.parameters import ROW_BLOCK, ParameterSpec, parameters
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE, Codes, Scheme, kv_elements, kv_storage


class Inputs(NamedTuple):
    """The arguments of `step` before the weights."""

    ids: relax.Var
    positions: relax.Var
    slots: relax.Var
    page_table: relax.Var
    tiles: relax.Var
    last: relax.Var
    taken: relax.Var
    rope: relax.Var
    pool: relax.Var
    logits: relax.Var
    hidden: relax.Var


class Weight(NamedTuple):
    """One weight of the model: what it is and the arguments that hold it."""

    spec: ParameterSpec
    tensors: tuple[Expr, ...]


Weights = Mapping[str, Weight]
"""By parameter name; those of a layer by their name in it."""


class Rows(NamedTuple):
    """Rows of activations as a product wants them: floats, or what `quantize` returns."""

    tensors: list[Expr]
    cols: int
    """Columns, which may be padded beyond those of the weight that they are multiplied with."""


def build_step(arch: Architecture, scheme: Scheme, level: Level) -> tvm.IRModule:
    """A module whose function `step` is this model with weights of this scheme."""
    return _Builder(arch, scheme, level).build()


class _Builder:
    """Emits the bindings of one `step`."""

    def __init__(self, arch: Architecture, scheme: Scheme, level: Level) -> None:
        self.arch = arch
        self.scheme = scheme
        self.level = level
        self.blocks = relax.BlockBuilder()
        self.kernels: dict[str, GlobalVar] = {}
        self.n = tirx.Var("n", "int64")
        self.b = tirx.Var("b", "int64")
        self.e = tirx.Var("e", "int64")
        self.seen: Expr | None = None
        """The last position that each row attends to, where that is not its own."""

    def build(self) -> tvm.IRModule:
        inputs = self._inputs()
        specs = parameters(self.arch)
        formats = [self.scheme.format_of(spec.name) for spec in specs]
        tensors = [t for spec, kind in zip(specs, formats, strict=True) for t in spec.tensors(kind)]
        types = [relax.TensorType(t.shape, t.dtype) for t in tensors]
        packed = relax.Var("weights", relax.TupleType(types))
        bounds = {"tir_var_upper_bound": {"n": MAX_ROWS, "b": MAX_ROWS, "e": MAX_ROWS}}
        with self.blocks.function(STEP, [*inputs, packed], attrs=bounds):
            fields = iter(
                [self.blocks.emit(relax.TupleGetItem(packed, i)) for i in range(len(types))]
            )
            weights = {
                spec.name: Weight(spec, tuple(next(fields) for _ in spec.tensors(kind)))
                for spec, kind in zip(specs, formats, strict=True)
            }
            self.blocks.emit_func_output(self._forward(inputs, weights))
        return self.blocks.finalize()

    def _inputs(self) -> Inputs:
        n, b, arch = self.n, self.b, self.arch

        def size(name: str) -> tirx.Var:
            return tirx.Var(name, "int64")

        def tensor(name: str, shape: Sequence[object], dtype: str = "int32") -> relax.Var:
            return relax.Var(name, relax.TensorType(shape, dtype))

        heads, vectors, width = arch.kv_page
        page = kv_elements(self.scheme.kv_dtype, PAGE_SIZE, width)
        pool = (arch.num_hidden_layers, size("pages"), heads, vectors, page)
        return Inputs(
            tensor("ids", (n,)),
            tensor("positions", (n,)),
            tensor("slots", (n,)),
            tensor("page_table", (size("seqs"), size("width"))),
            tensor("tiles", (size("tiles"), 4)),
            tensor("last", (b,)),
            tensor("taken", (self.e,)),
            tensor("rope", (size("reach"), arch.rope_width), "float32"),
            tensor("pool", pool, kv_storage(self.scheme.kv_dtype)),
            tensor("logits", (b, round_up(arch.vocab_size, ROW_BLOCK)), "float32"),
            tensor("hidden", (self.e, arch.hidden_size), "float32"),
        )

    def _forward(self, inputs: Inputs, weights: Weights) -> Expr:
        table = weights["model.embed_tokens.weight"]
        x = self._embed(inputs.ids, table, self.arch.embedding_scale)
        if self.arch.learned_positions:
            x = self._embed(inputs.positions, weights["model.embed_positions.weight"], 1.0, x)
        if self.arch.encoder:
            x = self._encoder_rows(x, inputs, weights)
        if self.arch.embedding_norm:
            x = self._norm(x, weights, "model.embed_norm", self.n, None).tensors[0]
        for layer in range(self.arch.num_hidden_layers):
            start = f"model.layers.{layer}."
            own = {k.removeprefix(start): w for k, w in weights.items() if k.startswith(start)}
            x = self._layer(x, inputs, layer, own)
        head = table if self.arch.tie_word_embeddings else weights["lm_head.weight"]
        hidden = self._hidden_rows(x, inputs)
        if self.arch.encoder:
            return relax.Tuple([inputs.logits, hidden])
        x = self._take_rows(x, inputs.last)
        codes = CODES.get(self.scheme.format_of(head.spec.name))
        x = self._norm(x, weights, "model.norm", self.b, codes)
        logits = self._logits(x, head, inputs.logits)
        return relax.Tuple([logits, hidden])

    def _encoder_rows(self, x: Expr, inputs: Inputs, weights: Weights) -> Expr:
        """Embeddings with their token types; from here on rows see the ends of their prompts."""
        if "prompt_ends" not in self.kernels:
            self.kernels["prompt_ends"] = self.blocks.add_func(prompt_ends(), "prompt_ends")
        numbers = [relax.TensorType((self.n,), "int32")] * 2
        kernel, args = self.kernels["prompt_ends"], [inputs.tiles, inputs.positions]
        self.seen, types = self._fields(kernel, args, numbers)
        if not self.arch.token_types:
            return x
        return self._embed(types, weights["model.embed_types.weight"], 1.0, x)

    def _layer(self, x: Expr, inputs: Inputs, layer: int, weights: Weights) -> Expr:
        """x plus attention plus MLP, the names of whose norms say where they stand."""
        norms, before_mlp = self.arch.norms, "post_attention_layernorm"
        if norms == "sum":
            return self._layer_of_sums(x, inputs, layer, weights)
        if norms == "around":
            before_mlp = "pre_feedforward_layernorm"
        if norms == "after":
            read = self._quantized(x, self.arch.hidden_size)
        else:
            read = self._norm(x, weights, "input_layernorm", self.n, self._codes)
        mixed = self._mixed(read, inputs, layer, weights)
        if norms == "before":
            after = self._linear(mixed, weights, "self_attn.o_proj", "add", x)
        else:
            projected = self._linear(mixed, weights, "self_attn.o_proj", "store")
            after = self._norm_add(projected, weights["post_attention_layernorm.weight"], x)
        if norms == "after":
            read = self._quantized(after, self.arch.hidden_size)
        elif self.arch.has_experts(layer):
            return self._experts(after, weights)
        elif not self.arch.shared_norm:
            source = x if self.arch.parallel else after
            read = self._norm(source, weights, before_mlp, self.n, self._codes)
        inner = self._inner_rows(read, weights)
        if norms == "before":
            return self._linear(inner, weights, "mlp.down_proj", "add", after)
        projected = self._linear(inner, weights, "mlp.down_proj", "store")
        return self._norm_add(projected, weights["post_feedforward_layernorm.weight"], after)

    def _layer_of_sums(self, x: Expr, inputs: Inputs, layer: int, weights: Weights) -> Expr:
        """Attention, then the MLP: each is added to what it read, and the sum is normalised."""
        hidden, n = self.arch.hidden_size, self.n
        mixed = self._mixed(self._quantized(x, hidden), inputs, layer, weights)
        x = self._linear(mixed, weights, "self_attn.o_proj", "add", x)
        x = self._norm(x, weights, "post_attention_layernorm", n, None).tensors[0]
        inner = self._inner_rows(self._quantized(x, hidden), weights)
        x = self._linear(inner, weights, "mlp.down_proj", "add", x)
        return self._norm(x, weights, "post_feedforward_layernorm", n, None).tensors[0]

    def _experts(self, x: Expr, weights: Weights) -> Expr:
        """x plus what the experts of each row make of it, which read floats to be chosen."""
        experts, n = self.arch.experts, self.n
        assert experts is not None
        floats = self._norm(x, weights, "post_attention_layernorm", n, None)
        runs, shares = self._routed(floats, weights, experts)
        read = self._quantized(floats.tensors[0], floats.cols)
        if experts.shared_size:
            x = self._shared(x, floats, read, weights)
        gate_up, down = weights["mlp.moe_gate_up_proj.weight"], weights["mlp.moe_down_proj.weight"]
        form, pairs = self.scheme.format_of(gate_up.spec.name), n * experts.per_token
        inner = round_up(experts.intermediate_size, GROUP_SIZE)
        blocks, epilogue = gate_up.spec.one.num_blocks, GATED[self.arch.activation]
        sizes = (form, experts, blocks, read.cols, epilogue)
        kernel = self._kernel("experts_gated", experts_gated, *sizes)
        args = [*runs, *read.tensors, *gate_up.tensors]
        if self._codes:
            made = self._fields(kernel, args, _quantized(pairs, inner))
        else:
            made = [self._call(kernel, args, _floats(pairs, inner))]
        blocks = down.spec.one.num_blocks
        kernel = self._kernel("experts_add", experts_add, form, experts, blocks, inner)
        args = [shares, *runs, *made, *down.tensors, x]
        return self._call(kernel, args, _floats(n, self.arch.hidden_size))

    def _routed(self, rows: Rows, weights: Weights, experts: Experts) -> tuple[list[Expr], Expr]:
        """Which rows go to which expert, as `group_by_expert` says it, and with which shares."""
        n, per_token = self.n, experts.per_token
        bias = weights.get("mlp.e_score_correction_bias")
        args = [self._linear(rows, weights, "mlp.gate", "store"), *(bias.tensors if bias else ())]
        chosen = [
            relax.TensorType((n, per_token), "int32"),
            relax.TensorType((n, per_token), "float32"),
        ]
        ids, shares = self._fields(self._kernel("route", route, experts), args, chosen)
        grouped = [
            relax.TensorType((n * per_token,), "int32"),
            relax.TensorType((experts.count + 1, 2), "int32"),
            relax.TensorType((1,), "int32"),
        ]
        kernel = self._kernel("group_by_expert", group_by_expert, experts)
        return self._fields(kernel, [ids], grouped), shares

    def _shared(self, x: Expr, floats: Rows, read: Rows, weights: Weights) -> Expr:
        """x plus the MLP that every row passes beside its experts."""
        name, hidden = "mlp.shared_experts", self.arch.hidden_size
        epilogue = GATED[self.arch.activation]
        inner = self._gated(read, weights[f"{name}.gate_up_proj.weight"], epilogue)
        if "mlp.shared_expert_gate.weight" in weights:
            made = self._linear(inner, weights, f"{name}.down_proj", "store")
            logits = self._linear(floats, weights, "mlp.shared_expert_gate", "store")
            kernel = self._kernel("add_weighted", add_weighted, hidden)
            return self._call(kernel, [x, made, logits], _floats(self.n, hidden))
        return self._linear(inner, weights, f"{name}.down_proj", "add", x)

    def _mixed(self, read: Rows, inputs: Inputs, layer: int, weights: Weights) -> Rows:
        """What attention makes of rows, before its last projection."""
        if self.arch.latent is not None:
            return self._mixed_latents(read, inputs, layer, weights, self.arch.latent)
        qkv = self._linear(read, weights, "self_attn.qkv_proj", "store")
        mixed = self._attention(qkv, inputs, layer, weights)
        return self._quantized(mixed, self.arch.num_attention_heads * self.arch.head_dim)

    def _mixed_latents(
        self, read: Rows, inputs: Inputs, layer: int, weights: Weights, latent: Latent
    ) -> Rows:
        """The same over latents: queries become such as latents see, results become values."""
        n, heads = self.n, self.arch.num_attention_heads
        dtype, index = self.scheme.kv_dtype, tirx.IntImm("int64", layer)
        small = latent.query_rank is not None
        name = "self_attn.q_b_proj" if small else "self_attn.q_proj"
        source = self._small_queries(read, weights, latent) if small else read
        q = self._linear(source, weights, name, "store")
        kv = self._linear(read, weights, "self_attn.kv_a_proj_with_mqa", "store")
        norm = weights["self_attn.kv_a_layernorm.weight"].tensors
        append = self._kernel("latent_append", latent_append, latent, heads, dtype)
        rest = [inputs.rope, inputs.positions, inputs.slots, *norm, inputs.pool, index]
        turned = self._call(append, [q, kv, *rest], _floats(n, heads * latent.rope_dim))
        seen = self._heads(q, weights["self_attn.w_uk"], self.arch.head_dim)
        scale = self.arch.attention_scale or self.arch.head_dim**-0.5
        sizes = (latent, heads, dtype, scale)
        attend = self._kernel("latent_attention", latent_attention, *sizes)
        args = [inputs.pool, inputs.page_table, inputs.tiles, inputs.positions, index]
        found = self._call(attend, [seen, turned, *args], _floats(n, heads * latent.rank))
        mixed = self._heads(found, weights["self_attn.w_uv"], latent.rank)
        return self._quantized(mixed, heads * latent.value_dim)

    def _small_queries(self, read: Rows, weights: Weights, latent: Latent) -> Rows:
        """The small vectors that queries are made of."""
        x = self._linear(read, weights, "self_attn.q_a_proj", "store")
        norm = weights["self_attn.q_a_layernorm.weight"]
        size, eps = norm.spec.cols, latent.norm_eps
        padded, args = round_up(size, GROUP_SIZE), [x, *norm.tensors]
        if self._codes is None:
            kernel = self._kernel("rms_norm_queries", rms_norm, size, padded, eps)
            return Rows([self._call(kernel, args, _floats(self.n, padded))], padded)
        kernel = self._kernel("rms_norm_queries", rms_norm_quantize, size, eps, self._codes)
        return Rows(self._fields(kernel, args, _quantized(self.n, size)), padded)

    def _heads(self, x: Expr, weight: Weight, stride: int) -> Expr:
        """The product of every head of x, which has `stride` columns, with its own matrix."""
        spec = weight.spec
        sizes = (spec.stack, spec.one.rows, spec.cols, stride)
        kind = self.scheme.format_of(spec.name)
        kernel = self._kernel(
            f"linear_heads_{spec.one.rows}_{spec.cols}", linear_heads, kind, *sizes
        )
        return self._call(kernel, [x, *weight.tensors], _floats(self.n, spec.rows))

    def _inner_rows(self, read: Rows, weights: Weights) -> Rows:
        """What the MLP makes of rows, before its last projection."""
        act = self.arch.activation
        if self.arch.gated:
            return self._gated(read, weights["mlp.gate_up_proj.weight"], GATED[act])
        plain = self._linear(read, weights, "mlp.up_proj", act)
        return self._quantized(plain, self.arch.intermediate_size)

    def _gated(self, read: Rows, weight: Weight, epilogue: Epilogue) -> Rows:
        """act(gate) * up as a product wants it: as many columns as the padded intermediate size."""
        inner = round_up(weight.spec.rows // 2, GROUP_SIZE)
        if self._codes is None:
            kernel = self._product(weight, epilogue, weight.spec.rows, read.cols)
            args = [*read.tensors, *weight.tensors]
            return Rows([self._call(kernel, args, _floats(self.n, inner))], inner)
        blocks, rows = weight.spec.num_blocks, weight.spec.rows
        name = f"linear_{epilogue}_{rows}_{read.cols}"
        kernel = self._kernel(name, gated_grouped, self._codes, blocks, read.cols, epilogue)
        args = [*read.tensors, *weight.tensors, self.n]
        return Rows(self._fields(kernel, args, _quantized(self.n, inner)), inner)

    @property
    def _hidden(self) -> int:
        """Columns of normalised rows: the hidden size with its padding."""
        return round_up(self.arch.hidden_size, GROUP_SIZE)

    @property
    def _codes(self) -> Codes | None:
        """What weights are, where products take quantized activations."""
        return CODES.get(self.scheme.weights)

    def _embed(self, ids: Expr, table: Weight, scale: float, add: Expr | None = None) -> Expr:
        hidden, blocks = self.arch.hidden_size, table.spec.num_blocks
        name = "embed" if add is None else f"embed_add_{blocks}"
        sizes = (self.scheme.format_of(table.spec.name), blocks, hidden, scale, add is not None)
        kernel = self._kernel(name, embed, *sizes)
        more = [] if add is None else [add]
        return self._call(kernel, [ids, *table.tensors, *more], _floats(self.n, hidden))

    def _take_rows(self, x: Expr, last: Expr) -> Expr:
        return self._call(self._row_taker(), [x, last], _floats(self.b, self.arch.hidden_size))

    def _hidden_rows(self, x: Expr, inputs: Inputs) -> Expr:
        """Rows that are copied into the caller's memory."""
        args = relax.Tuple([x, inputs.taken, inputs.hidden])
        taker, place = self._row_taker(), len(args.fields) - 1
        return self.blocks.emit(relax.op.call_tir_inplace(taker, args, place, inputs.hidden.ty))

    def _row_taker(self) -> GlobalVar:
        name = "take_rows"
        if name not in self.kernels:
            self.kernels[name] = self.blocks.add_func(take_rows(self.arch.hidden_size), name)
        return self.kernels[name]

    def _norm(self, x: Expr, weights: Weights, name: str, rows: Expr, codes: Codes | None) -> Rows:
        """The normalised rows as a product with such weights wants them."""
        hidden, eps = self.arch.hidden_size, self.arch.rms_norm_eps
        args = [x, *weights[f"{name}.weight"].tensors]
        if self.arch.norm_bias:
            args += weights[f"{name}.bias"].tensors
        if self.arch.norm == "layer":
            sizes: tuple[object, ...] = (hidden, eps, self.arch.norm_bias)
            plain, quantizing = layer_norm, layer_norm_quantize
        else:
            sizes = (hidden, eps) if codes else (hidden, self._hidden, eps)
            plain, quantizing = rms_norm, rms_norm_quantize
        if codes:
            kernel = self._kernel(quantizing.__name__, quantizing, *sizes, codes)
            tensors = self._fields(kernel, args, _quantized(rows, hidden))
            return Rows(tensors, self._hidden)
        kernel = self._kernel(plain.__name__, plain, *sizes)
        return Rows([self._call(kernel, args, _floats(rows, self._hidden))], self._hidden)

    def _norm_add(self, x: Expr, weight: Weight, residual: Expr) -> Expr:
        """The residual plus normalised rows."""
        hidden, eps = self.arch.hidden_size, self.arch.rms_norm_eps
        kernel = self._kernel("rms_norm_add", rms_norm_add, hidden, eps)
        return self._call(kernel, [x, *weight.tensors, residual], _floats(self.n, hidden))

    def _quantized(self, x: Expr, cols: int) -> Rows:
        """Rows of activations as a product wants them."""
        if self._codes is None:
            return Rows([x], cols)
        kernel = self._kernel(f"quantize_{cols}", quantize, cols, self._codes)
        return Rows(self._fields(kernel, [x], _quantized(self.n, cols)), cols)

    def _product(
        self,
        weight: Weight,
        epilogue: Epilogue,
        num_rows: int,
        cols: int,
        bias: bool = False,
        softcap: float | None = None,
    ) -> GlobalVar:
        finish = "_".join([epilogue, *(["bias"] if bias else []), *(["cap"] if softcap else [])])
        sizes = (weight.spec.num_blocks, cols, num_rows, epilogue, bias, softcap)
        weights = self.scheme.format_of(weight.spec.name)
        kind = "" if weights == self.scheme.weights else f"_{weights}"
        name = f"linear_{finish}_{num_rows}_{cols}{kind}"
        if codes := CODES.get(weights):
            return self._kernel(name, linear_grouped, codes, *sizes)
        return self._kernel(name, linear_float, weights, *sizes)

    def _linear(
        self,
        x: Rows,
        weights: Weights,
        name: str,
        epilogue: Epilogue,
        residual: Expr | None = None,
    ) -> Expr:
        """The named product of rows, with its bias if it has one."""
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        rows = weight.spec.rows
        kernel = self._product(weight, epilogue, rows, x.cols, bias is not None)
        more = [*(bias.tensors if bias else ()), *([] if residual is None else [residual])]
        return self._call(kernel, [*x.tensors, *weight.tensors, *more], _floats(self.n, rows))

    def _attention(self, qkv: Expr, inputs: Inputs, layer: int, weights: Weights) -> Expr:
        arch = self.arch
        slides = layer in arch.sliding_layers
        heads = (arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim)
        sizes = (*heads, self.scheme.kv_dtype)
        index = tirx.IntImm("int64", layer)
        rotation = self._rotation(layer)
        norms = [] if arch.qk_norm is None else ["self_attn.q_norm", "self_attn.k_norm"]
        tensors = [t for name in norms for t in weights[f"{name}.weight"].tensors]
        append = self._kernel(f"rope_append_{rotation.first}", rope_append, *sizes, rotation)
        args = [qkv, inputs.rope, inputs.positions, inputs.slots, *tensors, inputs.pool, index]
        padded = round_up(arch.head_dim, PAGE_SIZE)
        dtype = KvFormat(self.level, self.scheme.kv_dtype).factor_dtype
        queries = relax.TensorType((self.n, arch.num_attention_heads, padded), dtype)
        q = self._call(append, args, queries)
        window = arch.sliding_window if slides else None
        limits = (window, arch.attention_softcap)
        name = "attention" if window is None else "attention_sliding"
        attend = self._kernel(name, attention, *sizes, *limits)
        seen = inputs.positions if self.seen is None else self.seen
        args = [q, inputs.pool, inputs.page_table, inputs.tiles, seen, index]
        return self._call(attend, args, _floats(self.n, arch.num_attention_heads * arch.head_dim))

    def _rotation(self, layer: int) -> Rotation:
        arch = self.arch
        own = layer in arch.sliding_layers and arch.sliding_rope_theta is not None
        first = arch.rope_dim if own else 0
        if layer in arch.unrotated_layers:
            first = arch.rope_width - arch.rope_dim
        return Rotation(
            arch.rope_dim,
            arch.rope_width,
            first,
            arch.attention_scale,
            arch.qk_norm,
            arch.rms_norm_eps,
        )

    def _logits(self, x: Rows, head: Weight, logits: relax.Var) -> Expr:
        """The last product writes into the caller's memory."""
        rows = round_up(head.spec.rows, ROW_BLOCK)
        kernel = self._product(head, "store", rows, x.cols, softcap=self.arch.logit_softcap)
        args = relax.Tuple([*x.tensors, *head.tensors, logits])
        place = len(args.fields) - 1
        return self.blocks.emit(relax.op.call_tir_inplace(kernel, args, place, logits.ty))

    def _kernel(self, name: str, make: object, *sizes: object) -> GlobalVar:
        """The kernel of this name, added to the module when it is first asked for."""
        if name not in self.kernels:
            function: PrimFunc = make(self.level, *sizes)  # type: ignore[operator]
            self.kernels[name] = self.blocks.add_func(function, name)
        return self.kernels[name]

    def _call(self, kernel: GlobalVar, args: Sequence[Expr], out: object) -> Expr:
        return self.blocks.emit(relax.call_tir(kernel, relax.Tuple(list(args)), out))

    def _fields(
        self, kernel: GlobalVar, args: Sequence[Expr], out: list[relax.TensorType]
    ) -> list[Expr]:
        found = self._call(kernel, args, out)
        return [self.blocks.emit(relax.TupleGetItem(found, i)) for i in range(len(out))]


def _floats(rows: Expr, cols: int) -> relax.TensorType:
    return relax.TensorType((rows, cols), "float32")


def _quantized(rows: Expr, cols: int) -> list[relax.TensorType]:
    """What `quantize` returns: words, scales and corrections, in tiles of rows."""
    groups = round_up(cols, GROUP_SIZE) // GROUP_SIZE
    tiles = tirx.floordiv(rows + (TILE_ROWS - 1), TILE_ROWS)
    return [
        relax.TensorType((tiles, groups, TILE_ROWS, 8), "int32"),
        relax.TensorType((tiles, groups, TILE_ROWS), "float32"),
        relax.TensorType((tiles, groups, TILE_ROWS), "int32"),
    ]
