"""What of an image goes along with its pixels: the options of encode and decode for alpha, metadata and orientation."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lcodec.cli.options import not_empty
from lcodec.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from lcodec.image import BandedPicture, Image
    from lcodec.image.picture import P

T = TypeVar("T", "Image", "BandedPicture")
F = TypeVar("F", bound=Callable[..., Any])
NONE = "none"
_MORE_PIXELS = "--limit-pixels N allows more"

_orient = click.Choice(["apply", "keep"])
_strip = click.option(
    "--strip", is_flag=True, help="Leave out EXIF and XMP; a colour profile stays, unless it is sRGB anyway."
)
_strict = click.option("--strict", is_flag=True, help="Fail where something would be lost, instead of a warning.")


def encode_options(function: F) -> F:
    """--strip, --icc, --exif, --xmp, --orient, --drop-alpha, --strict; `Wanted.from_options` takes them."""
    for option in (
        _strict,
        click.option("--drop-alpha", is_flag=True, help="Leave out transparency."),
        click.option(
            "--orient",
            type=_orient,
            default="apply",
            show_default=True,
            help="Turn the pixels upright as EXIF says, or leave pixels and EXIF as they are.",
        ),
        click.option("--xmp", metavar="FILE|none", callback=not_empty, help="Use this XMP packet, or none."),
        click.option("--exif", metavar="FILE|none", callback=not_empty, help="Use this EXIF block, or none."),
        click.option("--icc", metavar="FILE|none", callback=not_empty, help="Use this colour profile, or none."),
        _strip,
    ):
        function = option(function)
    return function


def decode_options(function: F) -> F:
    """--strip, --orient, --strict; `fitted` takes them."""
    for option in (
        _strict,
        click.option(
            "--orient",
            type=_orient,
            default="keep",
            show_default=True,
            help="Turn the pixels upright as EXIF in the file says, or leave both as they are.",
        ),
        _strip,
    ):
        function = option(function)
    return function


@dataclass(frozen=True)
class Wanted:
    """How to read the images that are to be encoded. icc, exif, xmp: bytes for all of them, b"" for none, None: own."""

    strip: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    orient: str = "apply"
    drop_alpha: bool = False
    strict: bool = False

    @classmethod
    def from_options(
        cls,
        strip: bool,
        icc: str | None,
        exif: str | None,
        xmp: str | None,
        orient: str,
        drop_alpha: bool,
        strict: bool,
    ) -> Wanted:
        """Reads the files. Raises InputError for those that cannot be read, UsageError for those of another kind."""
        from lcodec.image import profile

        blocks = {"icc": _read(icc), "exif": _read(exif), "xmp": _read(xmp)}
        if blocks["icc"] and profile.colour_space(blocks["icc"]) is None:
            raise UsageError(f"{icc} is not an ICC profile")
        if blocks["exif"]:
            blocks["exif"] = blocks["exif"].removeprefix(b"Exif\0\0")
            if blocks["exif"][:4] not in (b"II*\0", b"MM\0*"):
                raise UsageError(f"{exif} is not EXIF", "it begins with II*, MM or Exif")
        return cls(strip, **blocks, orient=orient, drop_alpha=drop_alpha, strict=strict)

    def read(self, data: bytes, name: str, limit_pixels: int | None) -> Image:
        """An image file as it is to be encoded. Raises InputError."""
        from lcodec.image import limit_hint, read_image

        with limit_hint(_MORE_PIXELS):
            image = read_image(io.BytesIO(data), name=name, limit_pixels=limit_pixels, orient=False)
        return self.apply(image)

    def open_rows(self, source: Path | bytes, name: str, limit_pixels: int | None) -> BandedPicture:
        """The same for a picture that comes in bands. Raises InputError, `NotByRows` where that cannot be."""
        from lcodec.image import limit_hint, open_rows

        with limit_hint(_MORE_PIXELS):
            picture = open_rows(source, name=name, limit_pixels=limit_pixels)
        return self.apply(picture)

    def apply(self, image: T) -> T:
        """An image, read without turning it, as it is to be encoded. Raises InputError."""
        from lcodec.image import profile, upright
        from lcodec.image.orientation import as_upright, has_orientation

        if self.strict and image.warnings:
            raise InputError(f"{image.name}: {image.warnings[0]}", hint="without --strict this is a warning only")
        # What says how the pixels lie may not go before they are turned.
        if self.strip or self.exif is not None:
            settled = not has_orientation(self.exif)
        else:  # the image's own EXIF stays
            settled = self.xmp is not None and not has_orientation(image.exif, self.xmp)
        if settled:
            image = upright(image)
        if self.strip:  # what is given stays
            image = stripped(image)
        for name in ("icc", "exif", "xmp"):
            given = getattr(self, name)
            if given is not None:
                changes: dict[str, Any] = {name: given or None}
                image = replace(image, **changes)
        if settled:  # an XMP that is given says how they lay
            image = as_upright(image)
        elif self.orient == "apply":
            image = upright(image)
        if self.icc:
            space = profile.colour_space(self.icc)
            if space not in ("RGB", "GRAY") or (space == "GRAY" and not image.gray):
                raise InputError(f"{image.name} has other samples than the profile is for, {space}")
        return image.without_alpha() if self.drop_alpha else image


def _read(option: str | None) -> bytes | None:
    if option is None or option == NONE:
        return None if option is None else b""
    try:
        data = Path(option).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {option}: {(error.strerror or str(error)).lower()}") from error
    if not data:
        raise InputError(f"{option} is empty", hint="none is the word for nothing")
    return data


def stripped(picture: P) -> P:
    """Without EXIF and XMP, and without a profile that says what its absence says."""
    from lcodec.image import profile

    icc = None if picture.icc is not None and profile.is_srgb(picture.icc) else picture.icc
    return replace(picture, icc=icc, exif=None, xmp=None)


def fitted(
    picture: P, suffix: str, strip: bool, orient: str, strict: bool
) -> tuple[P, list[str]]:
    """A decoded picture as it is to be written, and warnings of what the format loses. Raises OutputError if strict."""
    from lcodec.image import fit, format_of, upright

    if orient == "apply" or strip:
        picture = upright(picture)
    if strip:
        picture = stripped(picture)
    picture, lost = fit(picture, suffix)
    if strict and lost:
        # PNG takes all but XMP that is no text.
        is_png = format_of(suffix) == "PNG"
        raise OutputError(lost[0], hint="tiff holds it, --strip leaves it out" if is_png else "png holds everything")
    return picture, lost
