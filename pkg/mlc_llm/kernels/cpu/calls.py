"""From Relax to the calls that TVM's machine makes, each of them once.

TVM's own lowering asks for the shape and the view of every intermediate result anew, reads every
weight twice and checks it, and lets go of everything by a call of its own: fifteen calls for one of a
kernel, a tenth of a microsecond each. In a step of a small model that is a sixteenth of the time.

Memory is planned before, so a view of the same part of it in the same shape is the same view, in
every layer. Kernels check what they are given, and a library knows whose weights it wants
(`compiler.artifact`); so the checks of weights go, those of the other arguments stay.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Expr

_REPEATABLE = (
    "vm.builtin.make_shape",
    "vm.builtin.make_prim_value",
    "relax.vm.alloc_tensor",  # a view of planned memory
)
"""What gives the same for the same arguments."""

_Key = tuple[object, ...]
"""What a value is made of: variables, and the rest as text."""

_CHECKS = ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")


@tvm.transform.module_pass(opt_level=0)
def lower_calls(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """What `relax.get_default_pipeline` makes of calls of kernels, without what is repeated."""
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        _each_once,
        relax.transform.AttachGlobalSymbol(),
    ]
    lowered: tvm.IRModule = tvm.ir.transform.Sequential(passes)(module)
    return lowered


@tvm.transform.module_pass(opt_level=0)
def _each_once(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Shorten every Relax function."""
    for name, function in module.functions.items():
        if isinstance(function, relax.Function):
            module[name] = _Shortened(function).function()
    return module


class _Shortened:
    """A lowered function whose bindings are taken over one by one."""

    def __init__(self, function: relax.Function) -> None:
        self._function = function
        self._bindings: list[relax.VarBinding] = []
        self._same: dict[relax.Var, Expr] = {}
        """What stands for a variable that was left out."""
        self._known: dict[_Key, relax.Var] = {}
        """The first variable with a value."""
        self._tuples: dict[relax.Var, relax.Tuple] = {}
        self._made: set[relax.Var] = set()
        """Tuples that are bound: of most only members are wanted."""
        self._members: set[relax.Var] = set()
        """Members of an argument that is a tuple: the weights."""

    def function(self) -> relax.Function:
        """The function with fewer bindings and the same effect."""
        old = self._function
        for block in old.body.blocks:
            for binding in block.bindings:
                self._take(binding.var, binding.value)
        result = self._renamed(old.body.body)
        body = relax.SeqExpr([relax.BindingBlock(self._bindings)], result)
        return relax.Function(old.params, body, old.ret_ty, old.is_pure, old.attrs)

    def _take(self, var: relax.Var, value: Expr) -> None:
        """Keep a binding, or note what stands for it."""
        if isinstance(value, relax.TupleGetItem):
            self._take_member(var, value)
        elif isinstance(value, relax.Tuple):
            self._tuples[var] = self._renamed(value)
        elif isinstance(value, relax.Var):
            self._same[var] = self._renamed(value)
        elif isinstance(value, relax.Call):
            self._take_call(var, value)
        else:
            self._keep(var, value)

    def _take_member(self, var: relax.Var, value: relax.TupleGetItem) -> None:
        source = self._same.get(value.tuple_value, value.tuple_value)
        if source in self._tuples:
            self._same[var] = self._tuples[source].fields[value.index]
        else:
            self._members.add(var)
            self._once(var, value, (source, value.index))

    def _take_call(self, var: relax.Var, call: relax.Call) -> None:
        name, arguments = _callee(call), [self._renamed(argument) for argument in call.args]
        if name in _CHECKS and arguments[0] in self._members:
            return
        renamed = relax.Call(call.op, arguments, call.attrs, call.ty_args)
        if name in _REPEATABLE:
            self._once(var, renamed, (name, *map(_key, arguments)))
        else:
            self._keep(var, renamed)

    def _once(self, var: relax.Var, value: Expr, key: _Key) -> None:
        if key in self._known:
            self._same[var] = self._known[key]
        else:
            self._known[key] = var
            self._keep(var, value)

    def _keep(self, var: relax.Var, value: Expr) -> None:
        self._bindings.append(relax.VarBinding(var, value))

    def _renamed(self, value: Expr) -> Expr:
        """What stands for a variable. A tuple that is wanted whole is made here at last."""
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._renamed(field) for field in value.fields])
        found = self._same.get(value, value) if isinstance(value, relax.Var) else value
        if found in self._tuples and found not in self._made:
            self._made.add(found)
            self._keep(found, self._tuples[found])
        return found


def _callee(call: relax.Call) -> str:
    """The operator or function of TVM's that is called; empty for a kernel."""
    if isinstance(call.op, relax.ExternFunc):
        return str(call.op.global_symbol)
    return str(call.op.name) if isinstance(call.op, tvm.ir.Op) else ""


def _key(argument: Expr) -> object:
    return argument if isinstance(argument, relax.Var) else str(argument)
