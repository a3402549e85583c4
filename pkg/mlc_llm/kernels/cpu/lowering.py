"""From TIR to machine code: the passes that our kernels need, in TVM's order.

TVM's own pipeline serves every target. On a CPU, for kernels that are written as they shall run,
most of it finds nothing to do, and some of it takes long to find that: shrinking buffers whose
sizes are exact already takes a third of all compile time. Left out are the passes for GPUs and
accelerators, those for schedules, and the search for common subexpressions, which LLVM does again.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
from tvm.tirx import compilation_pipeline

from mlc_llm.kernels.cpu.calls import lower_calls
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.target import target

NAME = "mlc_llm_cpu"


def compile_module(module: tvm.IRModule, level: Level) -> tvm.runtime.Executable:
    """The executable of a module of kernels, and of Relax functions that call them."""
    return tvm.compile(module, target=target(level), relax_pipeline=lower_calls, tir_pipeline=NAME)


def _pipeline() -> tuple[object, object, object]:
    """The pipeline and TVM's two final ones, as TVM's registry of pipelines wants them."""
    return _lower, finalize_host_passes, finalize_device_passes


@tvm.transform.module_pass(opt_level=0)
def _lower(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    passes = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.BF16StorageLegalize(),
    ]
    lowered: tvm.IRModule = tvm.ir.transform.Sequential(passes)(module)
    return lowered


compilation_pipeline.PIPELINE_MAP[NAME] = _pipeline
