"""All that makes an optimizer or a transformation, of a network and options."""

import functools

import optax

import pathsgd_optax as pathsgd


ALIASES = {
    "path_sgd": pathsgd.path_sgd,
    "path_adagrad": pathsgd.path_adagrad,
    "path_rmsprop": pathsgd.path_rmsprop,
    "path_adam": pathsgd.path_adam,
    "path_lars": pathsgd.path_lars,
    "path_lamb": pathsgd.path_lamb,
}

TRANSFORMATIONS = {
    **{name: functools.partial(make, 0.01) for name, make in ALIASES.items()},
    "scale": pathsgd.scale_by_path_norm,
    "precondition": functools.partial(
        pathsgd.precondition_by_path_norm, optax.scale_by_adam()
    ),
    "clip": functools.partial(pathsgd.clip_by_path_metric, 1.0),
    "penalty": functools.partial(pathsgd.add_path_norm_penalty, 0.1),
}
