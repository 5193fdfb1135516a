"""The trained generator in an exemplar buffer: its tensors by name, networks in float16."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Generation
from mlis.errors import ModelFileError
from mlis.generators.ridge import RidgeGenerator, RidgePredictor
from mlis.generators.wgan_gp.networks import Generator
from mlis.generators.wgan_gp.trainer import WGANGenerator

_NETWORK = ("from_noise", "from_descriptor", "hidden_bias", "to_features", "feature_bias")
_RIDGE = ("descriptors", "mean", "weights")


def pack(generator: RidgeGenerator | WGANGenerator) -> dict[str, Tensor]:
    """The generator's tensors by name."""
    if isinstance(generator, RidgeGenerator):
        network, predictor = None, generator.predictor
    else:
        network, predictor = generator.network, generator.predictor
    packed: dict[str, Tensor] = {}
    if network is not None:
        packed |= {name: getattr(network, name).detach().cpu().half() for name in _NETWORK}
    if predictor is not None:
        packed |= {f"ridge.{n}": getattr(predictor, n).detach().cpu().float() for n in _RIDGE}
    # laid out as a file gives them back: the last bits of a product depend on the layout
    return {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in packed.items()
    }


def unpack(
    held: Mapping[str, Tensor], settings: Generation, precision: Precision, *, signed: bool
) -> RidgePredictor | WGANGenerator:
    """The trained network, or the regression of a ridge generator, which lacks its rows.

    Args:
        held: what `pack` gave.
        settings: of the training.
        precision: where and in which type to compute.
        signed: whether scaled features may be negative.

    Raises:
        ModelFileError: the tensors are not those of the settings.
    """
    try:
        predictor = None
        if "ridge.mean" in held and settings.ridge_kernel != "auto":
            own = {n: precision.tensor(held[f"ridge.{n}"]) for n in _RIDGE}
            predictor = RidgePredictor(settings.ridge_kernel, **own)
        if settings.generator == "ridge":
            assert predictor is not None
            return predictor
        (features, hidden), noise = held["to_features"].shape, held["from_noise"].shape[1]
        network = Generator(
            noise,
            held["from_descriptor"].shape[1],
            hidden,
            features,
            std=1.0,
            precision=precision,
            rng=stream(0, "replaced"),
            signed=signed,
        )
        network.load_state_dict({name: held[name] for name in _NETWORK})
        return WGANGenerator(network, predictor)
    except (KeyError, RuntimeError, AssertionError) as error:
        raise ModelFileError(f"the kept generator does not fit its settings: {error}") from None
