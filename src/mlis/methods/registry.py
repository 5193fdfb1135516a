"""All methods by name. A new one is a file beside this one, a line here, and a test."""

from collections.abc import Iterable
from typing import cast

from mlis.config import Config
from mlis.errors import SettingsError
from mlis.methods.auto import Auto
from mlis.methods.base import Method
from mlis.methods.cada_vae import CADAVAE
from mlis.methods.cegzsl import CEGZSL
from mlis.methods.cngzsl import CNGZSL
from mlis.methods.cosine import SharedSpaceCosine
from mlis.methods.dazle import DAZLE
from mlis.methods.dvbe import DVBE
from mlis.methods.eszsl import ESZSL
from mlis.methods.f_vaegan import FVAEGAN
from mlis.methods.free import FREE
from mlis.methods.gaussian import Gaussian
from mlis.methods.gcm_cf import GCMCF
from mlis.methods.hsva import HSVA
from mlis.methods.icce import ICCEReconstruction
from mlis.methods.keshari import KeshariReconstruction
from mlis.methods.li import LiReconstruction
from mlis.methods.lisgan import LisGAN
from mlis.methods.mlis import MLIS
from mlis.methods.prototype import RidgePrototype
from mlis.methods.raw import RawSoftmax, RidgeSoftmax
from mlis.methods.sdgzsl import SDGZSL
from mlis.methods.sje import SJE
from mlis.methods.taco import TACOReconstruction
from mlis.methods.tcn import TCN
from mlis.methods.tdcss import TDCSSReconstruction
from mlis.methods.tf_vaegan import TFVAEGAN
from mlis.methods.vgse import VGSE
from mlis.methods.vgse_patches import VGSEPatches
from mlis.methods.zicldm import ZICLDMReconstruction
from mlis.methods.zlap import ZLAP

METHODS: dict[str, type[Method]] = {  # cheapest first; tables keep this order
    "cosine": SharedSpaceCosine,
    "prototype": RidgePrototype,
    "eszsl": ESZSL,
    "gaussian": Gaussian,
    "ridge": RidgeSoftmax,
    "raw": RawSoftmax,
    "sje": SJE,
    "vgse": VGSE,
    "vgse-patches": VGSEPatches,
    "cngzsl": CNGZSL,
    "zicldm-reconstruction": ZICLDMReconstruction,
    "zlap": ZLAP,
    "dazle": DAZLE,
    "dvbe": DVBE,
    "cegzsl": CEGZSL,
    "tcn": TCN,
    "cada-vae": CADAVAE,
    "hsva": HSVA,
    "sdgzsl": SDGZSL,
    "lisgan": LisGAN,
    "f-vaegan": FVAEGAN,
    "tf-vaegan": TFVAEGAN,
    "free": FREE,
    "gcm-cf": GCMCF,
    "keshari-reconstruction": KeshariReconstruction,
    "li-reconstruction": LiReconstruction,
    "tdcss-reconstruction": TDCSSReconstruction,
    "icce-reconstruction": ICCEReconstruction,
    "taco-reconstruction": TACOReconstruction,
    "mlis": MLIS,
    "auto": Auto,
}

DEFAULT = "mlis"


def build_method(name: str, config: Config | None = None, **options: object) -> Method:
    """The method of that name.

    Args:
        name: a key of `METHODS`.
        config: the settings that methods share.
        options: the method's own settings; of "auto" also `candidates`, names of further methods
            to try, with these shared settings.

    Raises:
        SettingsError: there is no such method, or it has no such option.
    """
    check_name(name)
    if METHODS[name] is Auto:
        names = cast(Iterable[str], options.pop("candidates", ()))
        options["further"] = {one: build_method(one, config) for one in names}
    try:
        return METHODS[name](config or Config(), **options)
    except TypeError as error:
        raise SettingsError(f"options of method {name!r}: {error}") from None


def check_name(name: str) -> None:
    """Raise `SettingsError` unless there is a method of that name."""
    if name not in METHODS:
        raise SettingsError(f"method: expected one of {', '.join(METHODS)}, got {name!r}")
