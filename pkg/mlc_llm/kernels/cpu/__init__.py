"""CPU kernels: functions that return TIR of static sizes and any number of token rows.

Names, arguments and outputs (outputs come last; each kernel's docstring has the shapes). `n` rows,
K `cols` in, Kp = K rounded up to 32, G = Kp / 32, t = n rounded up to 8 / 8, N out:

    level.detect() -> Level;  target.target(level) -> tvm Target

    linear_float.linear_float(level, "f32" | "f16", num_blocks, cols, num_rows, epilogue)
        x f32[n, K], w [num_blocks, Kp, 16][, residual f32[n, N]] -> y f32[n, N]
    linear_grouped.linear_grouped(level, codes, num_blocks, cols, num_rows, epilogue)
        xq int32[t, G, 8, 8], xs f32[t, G, 8], xc int32[t, G, 8],
        w int32[num_blocks, G, codes.words, 16], s f16[num_blocks, G, 16][, residual f32[n, N]] -> y f32[n, N]
    quantize.quantize(level, cols, codes)
        x f32[n, K] -> xq, xs, xc
    norm.rms_norm(level, hidden, cols_padded, eps)
        x f32[n, H], weight f32[H] -> y f32[n, cols_padded], zeros past H
    norm.rms_norm_quantize(level, hidden, eps, codes)
        x f32[n, H], weight f32[H] -> xq, xs, xc
    embed.embed(level, "f32" | "f16" | "q4" | "q8", num_blocks, hidden)
        ids int32[n], w[, s] -> y f32[n, H]
    embed.take_rows(hidden)
        x f32[n, H], last int32[b] -> y f32[b, H]

`epilogue` is "store", "add" (y = residual + sum) or "silu_mul" (gate_up matrices: N is
num_blocks * 8); with the others N is `num_rows`, the logical rows of the matrix, and junk rows of
the last block are not written. All data is 64-byte aligned. A row's result is bitwise the same for
every n and at every place in the batch.
"""
