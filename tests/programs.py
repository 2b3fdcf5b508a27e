"""How tests compile their programs.

Most programs run once, on a few numbers: they take longer to compile than to run. So
the tests' process has XLA write them without optimisations, by its older and quicker
code generator. Where the point is what users get, such as the bits of their numbers,
a program is compiled by `as_users_do` in place of `jax.jit`.
"""

import functools

import jax


QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
"""The XLA_FLAGS of the tests."""

as_users_do = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
        "xla_cpu_use_fusion_emitters": True,
    },
)
"""`jax.jit`, with what XLA does where no flags are set."""
