"""The picture of a network: where its paths run, and what gradients are divided by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pathsgd_optax._networks.network import NO_PATH, PathNetwork, check_network
from pathsgd_optax._plots.quantities import layers, measured
from pathsgd_optax._vocabulary import Params, check_norm_order, described


if TYPE_CHECKING:
    from matplotlib.axes import Axes


MISSING = (
    "plot_paths draws by Matplotlib, which is not installed: pip install matplotlib."
)


def plot_paths(
    network: PathNetwork,
    params: Params,
    after: Params | None = None,
    *,
    p: float = 2,
    constants: Any = None,
    constants_after: Any = None,
    labels: Sequence[str] = ("before", "after"),
) -> "tuple[Axes, Axes]":
    r"""Draws the share of the paths through every parameter, and gamma's spread.

    .. math::
      \text{share}(\theta) = 1 - \frac{\phi_p^p(w, \theta = 0)}{\phi_p^p(w)}

    On the left are the shares, as in ``network.summary(params)``. (Where some paths end
    in a gate or a normalisation, a share is the part of all that runs through it.) On
    the right is :math:`\gamma_p` of the weights on paths, on a logarithmic scale: a
    line from the least to the largest, broad between the quartiles, with a point at the
    median. Parameters stand in the order in which paths meet them, below the name of
    their module. Colours are grey for ``params`` and orange for ``after``; orange if
    there are ``params`` only.

    The figure is a new one of pyplot's: ``plt.show()`` shows it, and
    ``plt.savefig("paths.png")`` saves it. It needs Matplotlib.

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameter tree.
      after: another one, such as that after training, to compare with.
      p: order of the norm, in [1, inf]; a Python number.
      constants: what a network traced with constants needs besides.
      constants_after: the same, for ``after``.
      labels: what the legend calls ``params`` and ``after``.

    Returns:
      The axes of the shares and those of gamma. The position on the latter is
      :math:`\log_{10} \gamma`, which no depth makes overflow.

    Raises:
      ImportError: if Matplotlib is not installed.
      ValueError: if ``p`` is below 1, if ``params`` or ``constants`` are not the
        network's, or have entries that are inf or nan, if ``constants_after`` is
        missing or out of place, or if there are not two labels.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0, 3.0, 0.0]])},
      ...           "Dense_1": {"kernel": jnp.ones((3, 2))}}
      >>> network = pathsgd.layered_network(params)
      >>> shares, gammas = pathsgd.plot_paths(network, params)
      >>> print(shares.containers[0].datavalues)
      [1. 1.]
      >>> print(gammas.lines[0].get_xdata())  # log10 of the medians 2 and 9
      [0.301 0.954]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equations (5) and (9).
    """
    try:
        from pathsgd_optax._plots.drawing import draw
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(MISSING) from error
    check_network(network)
    order = check_norm_order(p)
    _check_labels(labels)
    if (constants_after is None) != (after is None or constants is None):
        raise ValueError(
            "constants_after are to after what constants are to params: a network that "
            "needs constants needs both where there are two trees of parameters."
        )
    states = {labels[0]: measured(network, params, order, constants)}
    if after is not None:
        states[labels[1]] = measured(network, after, order, constants_after)
    parameters = network.parameters
    absent = {k for k, x in enumerate(parameters) if x.role == NO_PATH}
    title = "" if order == 2 else f", p = {order:g}"
    return draw(states, list(layers(parameters)), absent, title)


def _check_labels(labels: Sequence[str]) -> None:
    if isinstance(labels, str) or len(set(labels)) != 2:
        raise ValueError(
            f"labels must be two different names, but got {described(labels)}."
        )
