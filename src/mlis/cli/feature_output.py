"""What `mlis features` and `mlis data build` print of images and names."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.printing import say

if TYPE_CHECKING:
    from mlis.features.build import Unmatched
    from mlis.features.images.extract import Extraction
    from mlis.features.images.files import Bad, Found

SHOWN = 20  # of a list on the screen; its file has all


def report_images(result: "Extraction", found: "Found", output: Path) -> None:
    """What was done, and the files without a row."""
    rows, size = result.images.features.shape
    rate = f", {result.computed / result.seconds:.1f} images/s" if result.computed else ""
    say(
        f"{output}: {rows:,} images × {size} numbers by {result.images.backbone['name']}; "
        f"{result.computed:,} computed now{rate}"
    )
    if found.unlisted:
        say(f"  {found.unlisted:,} files are not in the table of labels and were not read")
    report_bad(result.bad, output)


def report_bad(bad: "Sequence[Bad]", output: Path) -> None:
    """The first of the bad files; all are in bad.csv."""
    if not bad:
        return
    say(f"{len(bad):,} files gave no features ({output / 'bad.csv'}):")
    for each in bad[:SHOWN]:
        say(f"  {each.path}: {each.reason}")
    if len(bad) > SHOWN:
        say(f"  … and {len(bad) - SHOWN:,} more")


def report_unmatched(found: "Sequence[Unmatched]", output: Path | None) -> None:
    """Names without a partner, and unmatched.csv where `output` is given."""
    from mlis.features.build import write_unmatched

    if output is not None:
        write_unmatched(found, output)
    for lacks, text in (
        ("description", "classes have images and no description"),
        ("images", "classes are described and have no images"),
    ):
        names = [each for each in found if each.lacks == lacks]
        if names:
            say(f"{len(names)} {text}:")
        for each in names[:SHOWN]:
            near = f" (near: {each.near})" if each.near else ""
            say(f"  {each.name}{near}")
        if len(names) > SHOWN:
            say(f"  … and {len(names) - SHOWN} more")


def summary(result: "Extraction") -> dict[str, Any]:
    """For --json."""
    rows, size = result.images.features.shape
    return {
        "images": rows,
        "size": size,
        "computed": result.computed,
        "bad": len(result.bad),
        "seconds": round(result.seconds, 3),
        "images_per_second": round(result.computed / result.seconds, 2),
        "backbone": result.images.backbone["name"],
        "fingerprint": result.images.backbone["fingerprint"],
    }
