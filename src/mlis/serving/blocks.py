"""What the page is made of, and what happens when its visitor does something.

Pictures come as the paths of what Gradio stored; only files in its own folder are read. Of errors
the visitor sees sentences of `markup`: no function here raises one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.errors import DataError, MlisError
from mlis.serving import markup
from mlis.serving.forms import Field, Form
from mlis.serving.service import Service

TOP_K = 5
KINDS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and JPEG 2000 are read."
LATER = "The server has much to do: try again a little later."
KEPT = 600
"""Seconds that an uploaded picture is kept for the page to show."""


@dataclass(frozen=True)
class _Shown:
    """What a new class changes: header, predictions and list of classes."""

    head: Any
    result: Any
    known: Any


def build(gradio: Any, service: Service, allow_changes: bool) -> Any:
    """The page as Gradio blocks."""
    form = Form.of(service.engine.describer) if allow_changes else None
    folder = Path(gradio.utils.get_upload_folder()).resolve()
    options = {"api_visibility": "private", "concurrency_limit": None, "preprocess": False}

    async def recognise(data: Any) -> list[Any]:
        text, readable = await recognised(service, data, folder)
        return [text, gradio.skip() if readable else None]  # a browser would show a broken one

    with gradio.Blocks(title="mlis", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        head = gradio.HTML(lambda: markup.header(service.catalogue))
        with gradio.Row(equal_height=False):
            with gradio.Column(min_width=300):
                picture = _picture(gradio, service)
            with gradio.Column(min_width=300):
                result = gradio.HTML(markup.waiting())
        gradio.on([picture.upload, picture.clear], recognise, picture, [result, picture], **options)
        place = gradio.Column()
        with gradio.Accordion("All classes", open=False):
            known = gradio.HTML(lambda: markup.classes(service.catalogue))
        if form is not None:
            with place:
                shown = _Shown(head, result, known)
                _add_form(gradio, service, form, picture, shown, folder, options)
    blocks.queue(max_size=service.limits.max_waiting, api_open=False)
    return blocks


def _add_form(
    gradio: Any,
    service: Service,
    form: Form,
    picture: Any,
    shown: _Shown,
    folder: Path,
    options: Mapping[str, Any],
) -> None:
    """The form for a new class; the present picture is tried again at once."""
    with gradio.Accordion("Add a class by describing it", open=True):
        name = gradio.Textbox(label="Name", max_lines=1, elem_id="class-name")
        fields = [_field(gradio, field) for field in form.fields]
        button = gradio.Button("Add the class", variant="primary", elem_id="add-class")
        said = gradio.HTML()

    async def add(data: Any, new: Any, *values: Any) -> list[Any]:
        text, added = await added_class(service, form, new, values)
        if not added:
            return [text, *[gradio.skip()] * (4 + len(values))]
        again, _ = await recognised(service, data, folder)
        known = service.catalogue
        starts = [field.start for field in form.fields]
        return [text, markup.header(known), again, markup.classes(known), "", *starts]

    outputs = [said, shown.head, shown.result, shown.known, name, *fields]
    gradio.on([button.click, name.submit], add, [picture, name, *fields], outputs, **options)


def _picture(gradio: Any, service: Service) -> Any:
    known = service.engine.backbone is not None
    if not known:
        text = "The image model of its features is not known. POST /predict/features takes rows."
        gradio.HTML(markup.wrong("This model takes features, not pictures", text))
    return gradio.Image(
        label="Picture",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=340,
        buttons=[],
        visible=known,
        elem_id="picture",
    )


def _field(gradio: Any, field: Field) -> Any:
    return gradio.Textbox(
        value=field.start,
        label=field.label,
        info=field.help,
        placeholder=field.example,
        lines=field.lines,
        max_lines=12,
        elem_id=f"class-{field.kind}",
    )


async def recognised(service: Service, data: Any, folder: Path) -> tuple[str, bool]:
    """Predictions of an uploaded picture, or why there are none; and whether it can be shown.

    Args:
        service: the model.
        data: what the page sends: a mapping with `path` and `orig_name`, or None.
        folder: where uploaded files are; no other file is read.
    """
    given = data if isinstance(data, Mapping) else {}
    path, name = given.get("path"), str(given.get("orig_name") or "The file")
    if not path:
        return markup.waiting(), True
    try:
        content = await asyncio.to_thread(_read, str(path), folder)
        async with asyncio.timeout(service.limits.timeout):
            (answer,) = await service.predict_images([content])
    except TimeoutError:
        return markup.wrong("This takes too long", LATER), True
    except MlisError as error:
        return markup.wrong("Not now", str(error)), True
    except (OSError, ValueError):
        return markup.wrong("The picture is not there any more", "Drop it again."), False
    if answer.chances is None:
        why = answer.reason[:1].upper() + answer.reason[1:]
        return markup.wrong(f"{name} cannot be read as a picture", f"{why}. {KINDS}"), False
    return markup.best(answer, TOP_K), True


def _read(path: str, folder: Path) -> bytes:
    """A visitor may send any path: only what was uploaded is read."""
    place = Path(path).resolve()
    if not place.is_relative_to(folder):
        raise FileNotFoundError(path)
    return place.read_bytes()


async def added_class(
    service: Service, form: Form, name: Any, values: Sequence[Any]
) -> tuple[str, bool]:
    """What to tell the visitor who filled in the form, and whether there is a new class."""
    try:
        name, words = form.read(name, values)
        async with asyncio.timeout(service.limits.timeout):
            await service.add_class(name, words)
    except TimeoutError:
        return markup.wrong("This takes too long", LATER), False
    except DataError as error:
        text = str(error)
        return markup.wrong("The class was not added", text[:1].upper() + text[1:]), False
    except MlisError as error:
        return markup.wrong("Not now", str(error)), False
    return markup.good(f"{name} is a class now", "It is kept until the server stops."), True
