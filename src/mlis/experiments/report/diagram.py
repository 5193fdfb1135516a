"""The paper's figure 2 as it was trained: networks with their sizes, the losses that are on, steps.

What is off is drawn with a dashed outline and says so.
"""

from collections.abc import Mapping
from typing import Any

from mlis.experiments.report.svg import drawing, text

WIDTH, LEFT, RIGHT = 400, 12, 388
_GAP = 16  # between a title and its boxes, and between stages


def diagram(name: str, config: Mapping[str, Any], known: Mapping[str, int]) -> str:
    """The data flow of a configuration (`Config.to_dict`), top to bottom, as SVG.

    Args:
        name: of what was trained, for the description.
        config: all settings.
        known: `features`, `descriptors`, `classes`, `unseen`, as far as they are known.
    """
    sizes = _Sizes(config, known)
    parts, top = [], 0.0
    for stage in (_generation, _refinement, _classification, _inference):
        body, height = stage(config, sizes, top)
        parts.append(body)
        top += height + _GAP
    return drawing(
        WIDTH, top, f"What was trained: {name}. {in_words(config, sizes)}", "".join(parts)
    )


class _Sizes:
    """Sizes as text, a symbol where one is not known."""

    def __init__(self, config: Mapping[str, Any], known: Mapping[str, int]):
        self.x: int | None = known.get("features")
        self.a: int | None = known.get("descriptors")
        self.z: int = config["generation"]["noise"]
        self.gan: int = config["generation"]["hidden"]
        self.encoded: bool = config["refinement"]["components"] != "none"
        self.h: int | None = config["refinement"]["hidden"] if self.encoded else self.x
        self.classes: str = f"{known['classes']} classes" if "classes" in known else "all classes"
        self.unseen: str = f"{known['unseen']} unseen" if "unseen" in known else "the unseen"

    def of(self, *names: str) -> str:
        """Sum of some lengths, such as "1536" of "z" and "a", or "z + a" where one is unknown."""
        lengths = [getattr(self, name) for name in names]
        if None in lengths:
            symbols = {"x": "Dx", "a": "Da", "h": "Dh", "z": str(self.z)}
            return " + ".join(symbols[name] for name in names)
        return str(sum(lengths))


def in_words(config: Mapping[str, Any], sizes: "_Sizes") -> str:
    """The same for those who do not see the drawing."""
    generation, refinement = config["generation"], config["refinement"]
    stage2 = config["classification"]
    made = (
        "ridge regression makes features of unseen classes"
        if generation["generator"] == "ridge"
        else f"generator and critic, hidden size {sizes.gan}, {generation['steps']} steps"
    )
    encoder = (
        f"encoder {sizes.of('x')} to {sizes.of('h')}, components {refinement['components']}, loss "
        f"{refinement['loss']}, {refinement['steps']} steps"
        if sizes.encoded
        else "no encoder"
    )
    return (
        f"Stage 1a: {made}. Stage 1b: {encoder}. Stage 2: linear classifier to {sizes.classes}, "
        f"{stage2['synthetic_per_unseen']} synthetic features per unseen class."
    )


def _generation(config: Mapping[str, Any], sizes: _Sizes, top: float) -> tuple[str, float]:
    settings = config["generation"]
    drawn = _ridge if settings["generator"] == "ridge" else _gan
    return drawn(settings, sizes, top)


_STAGE_1A = "1a · Features of classes without images"


def _ridge(settings: Mapping[str, Any], sizes: _Sizes, top: float) -> tuple[str, float]:
    said = f"λ {settings['ridge_lambda']:g}, residuals of {settings['ridge_neighbours']} classes"
    boxes = [
        _box(LEFT, top + 40, 108, 42, "a, descriptors", f"{sizes.of('a')}, each class"),
        _box(LEFT, top + 108, 230, 46, f"ridge, {settings['ridge_kernel']}", said, "net"),
        _arrow(66, top + 82, 66, top + 108),
    ]
    return _panel(top, 170, _STAGE_1A, "closed form: nothing is trained by steps", boxes)


def _gan(settings: Mapping[str, Any], sizes: _Sizes, top: float) -> tuple[str, float]:
    start = "added to ridge means" if settings["generator_init"] == "ridge" else "cold start"
    made = f"[z ; a] {sizes.of('z', 'a')} → {sizes.gan} → {sizes.of('x')}\n{start}"
    judged = f"[x ; a] {sizes.of('x', 'a')} → {sizes.gan} → 1"
    boxes = [
        _box(LEFT, top + 40, 108, 42, "a, descriptors", f"{sizes.of('a')}, each class"),
        _box(128, top + 40, 114, 42, "z, noise", str(sizes.z)),
        _box(258, top + 40, 130, 42, "x, real features", f"seen classes, {sizes.of('x')}"),
        _box(LEFT, top + 108, 230, 58, "G, generator", made, "net"),
        _box(150, top + 196, 238, 46, "D, critic: WGAN-GP, eq. 2", judged, "net"),
        *(_arrow(66, top + 82, 66, top + 108), _arrow(185, top + 82, 185, top + 108)),
        *(_arrow(196, top + 166, 196, top + 196), _arrow(324, top + 82, 324, top + 196)),
        text(204, top + 185, "x̃, synthetic"),
    ]
    said = (
        f"{settings['steps']:,} steps of G, {settings['critic_steps']} of D each; "
        f"batch {settings['batch_size']}, penalty {settings['penalty']:g}"
    )
    return _panel(top, 258, _STAGE_1A, said, boxes)


def _refinement(config: Mapping[str, Any], sizes: _Sizes, top: float) -> tuple[str, float]:
    settings = config["refinement"]
    on = set(settings["components"].split("+")) - {"none"}
    title = "1b · Visual refinement"
    if not sizes.encoded:
        return _panel(top, 46, title, "off: no encoder, features stay as they are", [])
    flow = f"{sizes.of('x')} → {sizes.of('h')}"
    synthetic = (
        f"{settings['synthetic_per_unseen']} a step per unseen class" if "sfr" in on else "off"
    )
    boxes = [
        _box(
            LEFT,
            top + 40,
            176,
            42,
            "x, real, seen classes",
            f"{settings['classes_per_batch']} classes × {settings['samples_per_class']}",
        ),
        _box(212, top + 40, 176, 42, "x̃, synthetic", synthetic, "" if "sfr" in on else "off"),
        _box(LEFT, top + 108, 376, 46, "E, encoder: linear + ReLU", f"{flow} = h", "net"),
        _box(LEFT, top + 180, 176, 58, *_metric(settings, on)),
        _box(212, top + 180, 176, 58, *_cross_entropy(settings, on, sizes)),
        _arrow(100, top + 82, 100, top + 108),
        _arrow(300, top + 82, 300, top + 108, off="sfr" not in on),
        _arrow(100, top + 154, 100, top + 180, off="ml" not in on),
        _arrow(300, top + 154, 300, top + 180, off="sfr" not in on),
    ]
    joint = "together with 1a" if settings["schedule"] == "joint" else "after 1a"
    said = f"{settings['steps']:,} steps, {joint}; Adam, {settings['learning_rate']:g}"
    return _panel(top, 254, title, said, boxes)


def _metric(settings: Mapping[str, Any], on: set[str]) -> tuple[str, str, str]:
    if "ml" not in on:
        return "metric loss, eq. 1", "off", "off"
    circle = settings["loss"].startswith("circle")
    values = f"m {settings['margin']:g}, γ {settings['gamma']:g}" if circle else "as in its paper"
    where = (
        f"on [h ; a], a scaled by {settings['semantic_scale']:g}" if "is" in on else "on h alone"
    )
    return f"{settings['loss'].replace('_', '-')[:22]} loss", f"{values}\n{where}", "loss"


def _cross_entropy(
    settings: Mapping[str, Any], on: set[str], sizes: _Sizes
) -> tuple[str, str, str]:
    if "sfr" not in on:
        return "cross-entropy, eq. 3", "off", "off"
    weight = f"weight {settings['cross_entropy_weight']:g}"
    return "cross-entropy, eq. 3", f"{sizes.classes}\n{weight}", "loss"


def _classification(config: Mapping[str, Any], sizes: _Sizes, top: float) -> tuple[str, float]:
    settings = config["classification"]
    seen = settings["synthetic_per_seen"]
    made = f"{settings['synthetic_per_unseen']:,} per unseen class" + (
        f", {seen} per seen" if seen else ""
    )
    calibrated = settings["calibration"]
    said = (
        "calibrated on validation classes"
        if calibrated == "validation"
        else f"calibration {calibrated:g}"
    )
    boxes = [
        _box(LEFT, top + 40, 176, 42, "h of real features", "all training images"),
        _box(212, top + 40, 176, 42, "h of synthetic ones", made),
        _box(
            LEFT,
            top + 108,
            376,
            46,
            "softmax regression",
            f"{sizes.of('h')} → {sizes.classes}; {said}",
            "net",
        ),
        _arrow(100, top + 82, 100, top + 108),
        _arrow(300, top + 82, 300, top + 108),
    ]
    return _panel(top, 170, "2 · Classifier", "never sees a descriptor", boxes)


def _inference(config: Mapping[str, Any], sizes: _Sizes, top: float) -> tuple[str, float]:
    steps = ["image", "x", *(["E"] if sizes.encoded else []), "classifier", "class"]
    width = (376 - 16 * (len(steps) - 1)) / len(steps)
    boxes = []
    for i, step in enumerate(steps):
        x = LEFT + i * (width + 16)
        style = "net" if step in ("E", "classifier") else ""
        boxes.append(_box(x, top + 40, width, 30, step, "", style))
        if i:
            boxes.append(_arrow(x - 16, top + 55, x, top + 55))
    return _panel(top, 86, "3 · Recognition", f"one of {sizes.classes}, no descriptor", boxes)


def _panel(top: float, height: float, title: str, said: str, boxes: list[str]) -> tuple[str, float]:
    frame = (
        f'<rect class="stage" x="1" y="{top + 1:g}" width="398" height="{height - 2:g}" rx="10"/>'
    )
    words = text(LEFT, top + 17, title, "name ours") + text(LEFT, top + 32, said)
    return frame + words + "".join(boxes), height


def _box(
    x: float, y: float, width: float, height: float, title: str, said: str, style: str = ""
) -> str:
    shape = (
        f'<rect class="box {style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        'rx="6"/>'
    )
    lines = [line for line in said.split("\n") if line]
    first = y + height / 2 + 4 - 7.5 * len(lines)
    words = [text(x + width / 2, first, title, "name", "middle")]
    words += [
        text(x + width / 2, first + 15 * (i + 1), line, anchor="middle")
        for i, line in enumerate(lines)
    ]
    return shape + "".join(words)


def _arrow(x1: float, y1: float, x2: float, y2: float, *, off: bool = False) -> str:
    """Downwards, or to the right."""
    tip = "l-4-7h8z" if x1 == x2 else "l-7-4v8z"
    style = "flow off" if off else "flow"
    return (
        f'<path class="{style}" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'
        f'<path class="tip" d="M{x2:g} {y2:g}{tip}"/>'
    )
