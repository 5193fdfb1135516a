"""The matrix products of each step of stage 1, as `mlis` does them: shapes and dtypes."""

from paired import Product
from shapes import Shape

from mlis.compute.precision import Precision
from mlis.config import Config


def of_steps(shape: Shape, config: Config, precision: Precision) -> dict[str, list[Product]]:
    """Products of a critic step, a generator step, an encoder step, and a whole step.

    All have factors in the product dtype, but for what the metric loss exponentiates: h·hᵀ and the
    descriptors' a·aᵀ stay in the master's.
    """
    g, r = config.generation, config.refinement
    B, H, D, Z, A = g.batch_size, g.hidden, shape.features, g.noise, shape.descriptor

    def p(m: int, k: int, n: int) -> Product:
        return Product(m, k, n, precision.product)

    def fakes(size: int, classes: int) -> list[Product]:
        return [p(classes, A, H), p(size, Z, H), p(size, H, D)]

    K = min(shape.seen, B)  # rows of the class term
    critic = [p(K, A, H), p(2 * B, D, H), p(B, H, D), p(H, 3 * B, D), p(H, K, A)]
    score = [p(K, A, H), p(B, D, H), p(B, H, D)]
    generator = [*fakes(B, K), *score, p(B, D, H), p(D, B, H), p(H, B, Z), p(H, K, A)]

    P = min(r.classes_per_batch, shape.seen)
    real, C = P * r.samples_per_class, shape.seen + shape.unseen
    made = shape.unseen * r.synthetic_per_unseen + shape.seen * r.synthetic_per_seen
    N, E = real + made, r.hidden
    encoder = [*fakes(made, C), p(N, D, E), p(E, N, D)]
    encoder += [p(N, E, C), p(C, N, E), p(N, C, E)]  # the head, forward and backward
    exact = precision.master
    encoder += [Product(P, A, P, exact), Product(real, E, real, exact), p(real, real, E)]

    rounds = g.critic_steps
    of_critics = fakes(rounds * B, min(shape.seen, rounds * B))
    return {
        "critic step": [*fakes(B, K), *critic],
        "generator step": generator,
        "encoder step": encoder,
        "stage-1 step": [*of_critics, *(rounds * critic), *generator, *encoder],
    }
