"""Every setting, its default and what it means: one frozen section per stage.

The only home of defaults. A benchmark's preset changes some of them (:mod:`mlis.presets`).
"""

from dataclasses import dataclass
from typing import Literal

from mlis.section import Section, setting


@dataclass(frozen=True)
class Preprocessing(Section):
    """What is done to features and descriptors before anything is trained."""

    feature_transform: Literal["none", "sqrt"] = setting(
        "none", "elementwise transform of the (non-negative) features before scaling"
    )
    feature_scaling: Literal["minmax", "standard", "none"] = setting(
        "minmax",
        "by training rows, minmax: each feature to [0, 1]; standard: to mean 0 and standard "
        "deviation 1, for features of both signs",
    )
    descriptor_norm: Literal["l2", "none"] = setting(
        "l2", "normalise each descriptor to unit length (raw norms of 20 swamp the features)"
    )


@dataclass(frozen=True)
class Generation(Section):
    """Stage 1a: features of classes without images. Conditional WGAN-GP (eq. 2) or ridge."""

    generator: Literal["wgan-gp", "ridge"] = setting(
        "wgan-gp", "the paper's conditional WGAN-GP, or the closed-form ridge baseline"
    )
    generator_init: Literal["cold", "ridge"] = setting(
        "ridge", "wgan-gp: add to the ridge-predicted class mean, or start cold as the paper does"
    )
    steps: int = setting(100, "generator steps (thousands from a cold start)", low=0)
    batch_size: int = setting(256, "real and synthetic samples in a critic step", low=2)
    hidden: int = setting(4096, "hidden units of generator and critic", low=1)
    noise: int = setting(512, "length of the noise vector z", low=1)
    learning_rate: float = setting(1e-4, "Adam's step size for generator and critic", low=0)
    critic_steps: int = setting(5, "critic steps per generator step", low=1)
    penalty: float = setting(10.0, "weight of the gradient penalty (lambda of eq. 2)", low=0)
    beta1: float = setting(0.5, "Adam's first decay rate", low=0, high=0.9999)
    beta2: float = setting(0.999, "Adam's second decay rate", low=0, high=0.99999)
    init_std: float = setting(0.02, "standard deviation of initial weights", low=0)
    ridge_lambda: float = setting(0.1, "ridge: penalty of the regression", low=1e-12)
    ridge_kernel: Literal["linear", "rbf"] = setting("linear", "ridge: kernel on the descriptors")
    ridge_neighbours: int = setting(
        5, "ridge: most similar seen classes that lend their residuals", low=1
    )


@dataclass(frozen=True)
class Refinement(Section):
    """Stage 1b: the encoder, metric loss on [h ; a_y] (eq. 1) and cross-entropy (eq. 3)."""

    components: Literal["ml+is+sfr", "ml+is", "ml+sfr", "ml", "sfr", "none"] = setting(
        "ml+is+sfr",
        "ml: metric loss; is: on [h ; a_y]; sfr: cross-entropy with synthetic features; "
        "none: no encoder (raw features)",
    )
    loss: str = setting(
        "circle",
        "circle, circle_eq1, contrastive, multi_similarity, or module:function taking "
        "(embeddings, labels)",
    )
    margin: float = setting(0.25, "m of the circle losses", low=-1, high=2)
    gamma: float = setting(80.0, "scale of the circle losses", low=1e-6)
    semantic_scale: float = setting(1.0, "length of a descriptor beside h in [h ; a_y]", low=0)
    visual_norm: Literal["none", "l2"] = setting(
        "none", "normalise h before it is concatenated with the descriptor"
    )
    schedule: Literal["sequential", "joint"] = setting(
        "sequential", "train the generator first, or generator and encoder step by step together"
    )
    generator_feedback: float = setting(
        0.0, "joint only: weight of the encoder's cross-entropy in the generator's loss", low=0
    )
    steps: int = setting(600, "encoder steps (joint: one per generator step)", low=0)
    classes_per_batch: int = setting(64, "P of a P x K batch (at most the seen classes)", low=2)
    samples_per_class: int = setting(8, "K of a P x K batch", low=2)
    hidden: int = setting(2048, "size of the refined feature h", low=1)
    learning_rate: float = setting(1e-4, "Adam's step size for the encoder", low=0)
    beta1: float = setting(0.5, "Adam's first decay rate", low=0, high=0.9999)
    beta2: float = setting(0.999, "Adam's second decay rate", low=0, high=0.99999)
    init_std: float = setting(0.02, "standard deviation of initial weights", low=0)
    cross_entropy_weight: float = setting(1.0, "weight of eq. 3 beside the metric loss", low=0)
    synthetic_per_unseen: int = setting(5, "synthetic samples a step per unseen class", low=0)
    synthetic_per_seen: int = setting(
        1,
        "synthetic samples a step per seen class, where a generator is trained: for unseen "
        "classes, or with classification.synthetic_per_seen > 0",
        low=0,
    )

    @property
    def switches(self) -> frozenset[str]:
        """The components that are on: a subset of {"ml", "is", "sfr"}."""
        return frozenset(self.components.split("+")) - {"none"}


@dataclass(frozen=True)
class Classification(Section):
    """Stage 2: softmax regression on refined features, real and synthetic."""

    synthetic_per_unseen: int = setting(300, "synthetic samples per unseen class", low=1)
    synthetic_per_seen: int = setting(0, "synthetic samples per seen class", low=0)
    balance: Literal["samples", "classes"] = setting(
        "classes", "every sample weighs the same, or every class"
    )
    weight_decay: float = setting(
        1e-5, "L2 penalty on the weights, for features of mean length 1", low=0
    )
    tolerance: float = setting(
        1e-5,
        "stop when the largest gradient entry is below (at most a tenth of the first one)",
        low=0,
    )
    max_iterations: int = setting(300, "L-BFGS iterations at most", low=1)
    calibration: float | Literal["validation"] = setting(
        0.0,
        "calibration constant subtracted from seen-class scores, or `validation`: the best on "
        "validation classes, found by one more training that holds them out (by up to five, that "
        "hold out others, where each holds out fewer than 10)",
    )
