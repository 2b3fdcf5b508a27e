"""Why an operation has no path semantics, and what to do."""

HOMOGENEOUS = (
    "Paths run through operations that a positive factor passes: weights, sums, relu, "
    "leaky_relu, abs, pooling. If a softmax or a sigmoid ends the network, leave it to "
    "the loss and return the logits."
)
TEACHING = (
    " If you know what the operation does to path masses, tell register_path_rule."
)
UNKNOWN = "there is no path rule for it. " + HOMOGENEOUS + TEACHING
PRODUCT = (
    "it multiplies two values that depend on the inputs, as attention and gates do. "
    + HOMOGENEOUS
)
STATISTICS = (
    "it squares a value that depends on the inputs, as the statistics of LayerNorm, of "
    "GroupNorm, and of BatchNorm in training mode do. Run BatchNorm on its running "
    "averages: train=False or use_running_average=True, or model.eval() in nnx."
)
RANDOM = (
    "it uses random numbers as noise does: dropout is active. Trace the network "
    "without it: deterministic=True or train=False, or model.eval() in nnx. What is "
    "drawn once for all, such as fixed features or masks, draw outside, and close over "
    "it."
)
INTEGERS = (
    "it takes integers or comparisons of the inputs together with values on paths. "
    "These may look up (table[x], take_along_axis) and choose (where); made floating, "
    "they are input units. " + HOMOGENEOUS
)
WRITTEN = (
    "the inputs say where it writes, as the edges of a graph do, so that every value "
    "may go anywhere. Close over what says where, or pass it as `constants`: then it "
    "is known, and each value has one place."
)
SCALED = (
    "it multiplies a value on paths by a value made of the inputs, which has no bound; "
    "only masks, of zeros and ones, let paths through: a comparison, or one_hot. What "
    "is the same for all examples, close over, or pass as `constants`."
)
DIVIDED = (
    "it divides a value on paths by one made of the inputs. A mean over what a mask "
    "leaves, which is divided by the sum of the mask, is read with gates=True. Trace "
    "the network with the division by a constant, such as the length of the sequence."
)
NONLINEAR = (
    "a parameter enters it, and it isn't linear. Weights are products and sums of "
    "parameters: train what it returns, in the parameter's place. What isn't trained, "
    "such as running averages, goes into `constants`."
)
DIVISOR = (
    "it divides by a parameter. Weights are products and sums of parameters: train the "
    "inverse, and multiply by it. What isn't trained, such as running averages, goes "
    "into `constants`."
)
ROOT = (
    "it takes a root of parameters, as WeightNorm and SpectralNorm do. Weights are "
    "products and sums of parameters: train the normalised weight itself, without it."
)
CLIPPED = (
    "it clips at a constant that isn't known to be 0, as relu6 and jnp.clip do, which "
    "moves when the units are rescaled. Use relu."
)
COMPARISON = (
    "it computes with a comparison, as gates do. Only where(x > 0, x, a * x) and the "
    "like are ReLUs; write relu as jax.nn.relu or jnp.maximum(x, 0). " + HOMOGENEOUS
)
CENTRED = (
    "a mean is divided by a root of the second moment of what it is a mean of, and not "
    "taken from it. Divide what is normalised itself."
)
JOINED = (
    "it multiplies two bounded values, one of which was joined from gates (sigmoid) "
    "and units (tanh): nothing tells which of both is the gate. Join what they are "
    "functions of instead, and apply the functions to its parts."
)
STATISTIC = (
    "a statistic of data, such as a variance or the sum of a softmax, does something "
    "else than to divide what it is made of. Divide by it, or by its root, the values "
    "themselves, and write a softmax as jax.nn.softmax."
)
EXPONENTIAL = (
    "it uses an exponential otherwise than a softmax does, which divides by the sum of "
    "all: exp has no bounds. At the end of the network, leave it to the loss, and "
    "return what it is taken of; as a gate, use a sigmoid."
)
LOGARITHM = (
    "it uses the logarithm of a sum, as that of log_softmax, which exp may undo, but "
    "which has no paths. If it ends the network, leave it to the loss, and return the "
    "logits."
)
POWER = "it takes a power of a value that depends on the inputs. " + HOMOGENEOUS
DIVISION = "it divides by a value that depends on the inputs. " + HOMOGENEOUS
ROUNDED = "it makes integers of a value that depends on the inputs. " + HOMOGENEOUS
ORDER = (
    "it uses the order of values that depend on the inputs. Use the sorted or largest "
    "values themselves, as jnp.sort and lax.top_k return them."
)
INDEXED = "what it is indexed by depends on the inputs. " + HOMOGENEOUS
CONTROL = (
    "its course depends on values that aren't known when the network is traced. Close "
    "over what decides, use Python's own control flow, lax.scan, or a fori_loop with "
    "static bounds."
)
MIXED = (
    "mixes the examples of a batch: what it makes of one example depends on the "
    "others, and a network's paths are those of one. Compute statistics of a batch "
    "outside of the network, and pass them as `constants`."
)
COMPLEX = (
    "it computes with complex numbers. Write a Fourier or a cosine transform as a "
    "product by a constant matrix, or transform the inputs outside of the network."
)
SPECTRUM = COMPLEX + TEACHING
COINCIDING = (
    "it multiplies by parameters at places that may coincide. Pass "
    "unique_indices=True, or multiply by an array that is 1 elsewhere."
)
DEVICES = (
    "what one device computes has not all the paths. Trace the function without "
    "shard_map, as for a single device: the paths are the same."
)
SYSTEM = (
    "it solves a system for too many unknowns. Multiply by the inverse of its matrix, "
    "jnp.linalg.inv(a)."
)

READ_WITH_GATES = frozenset(
    [CLIPPED, COMPARISON, DIVISION, ORDER, POWER, PRODUCT, ROOT, STATISTICS]
)
"""What is no reason in a network with gates, or a rarer one."""
GATES = (
    " Or trace with gates=True: normalisations end the paths then, and gates, bounded "
    "functions and attention multiply them by their size."
)
