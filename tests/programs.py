"""How tests compile their programs.

Most programs run once, on a few numbers: they take longer to compile than to run. So
the tests' process has XLA write them without optimisations, in one piece for each
program, and by its older and quicker code generator where JAX still has it, before
0.11. Where the point is what users get, such as the bits of their numbers, a program is
compiled by `as_users_do` in place of `jax.jit`.
"""

import functools

import jax


DEFAULTS = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_parallel_codegen_split_count": 32,
    "xla_llvm_disable_expensive_passes": False,
}

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_llvm_disable_expensive_passes": True,
}

if jax.__version_info__ < (0, 11):
    DEFAULTS["xla_cpu_use_fusion_emitters"] = True
    QUICK["xla_cpu_use_fusion_emitters"] = False

XLA_FLAGS = " ".join(f"--{name}={value}".lower() for name, value in QUICK.items())
"""What makes programs quick to compile."""

as_users_do = functools.partial(jax.jit, compiler_options=DEFAULTS)
"""`jax.jit`, with what XLA does where no flags are set."""
