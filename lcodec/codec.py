"""The main path: an image to the bytes of a .lic file, and back.

    encode: image -> g_a -> gain -> y -> h_a -> z -> integers -> integer entropy model -> rANS -> container
    decode: container -> rANS -> integer entropy model -> y_hat -> inverse gain -> g_s -> image

Everything between the integers and the container is exact (`lcodec.entropy`); the transforms may differ by a rounding
between machines, and that is all that may.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from lcodec import container, weights
from lcodec.container import METADATA_LIMIT_BYTES, Container, Header
from lcodec.cores import MAX_THREADS, available_cores
from lcodec.decoder import (
    LatentsDigest,
    Slice,
    decode_latents,
    integer_model,
    known_quality,
    numbered_slices,
)
from lcodec.decoding import Decoding
from lcodec.encoding import Coded, Encoding
from lcodec.entropy.tables import table_set
from lcodec.errors import ModelError, UsageError
from lcodec.header import Buffer, quality_to_code
from lcodec.image import (
    AlphaEncoder,
    BandedPicture,
    Picture,
    crop,
    encode_alpha,
    fill_transparent,
    fill_transparent_bands,
    psnr,
)
from lcodec.limits import NO_LIMITS, Limits
from lcodec.nets.config import NetConfig
from lcodec.region import Region
from lcodec.search.plans import plan_of
from lcodec.search.target import Target, Unreachable, search
from lcodec.transforms import choose_device, open_transforms
from lcodec.transforms.bands import Bands
from lcodec.transforms.tiling import Box, hyper_analyse_block, tiled_synthesis

if TYPE_CHECKING:
    from lcodec.search.proxy import Proxy

BAND_ROWS = 256  # an array of pixels is taken in bands of that many rows


@dataclass
class EncodeResult:
    """data: the file. seconds: "transform", "entropy", "total". y_hat_digest: see `LatentsDigest`.

    quality: as the file has it, in steps of 1/128. evaluations: how often the image was coded to meet a target.
    """

    data: bytes
    seconds: dict[str, float]
    y_hat_digest: str
    quality: float
    evaluations: int
    _reconstruct: Callable[[], np.ndarray]

    def reconstruction(self) -> np.ndarray:
        """The pixels that a decoder on this device will give: like `Picture.pixels`, of the input's type and shape."""
        return self._reconstruct()


@dataclass
class DecodeResult:
    """seconds: "transform", "entropy", "total". digest: see `LatentsDigest`, None for a region.

    warnings: what had to be skipped. lost: regions of damaged slices, which were filled. alpha_lost: alpha was damaged.
    """

    picture: Picture
    header: Header
    seconds: dict[str, float]
    digest: str | None
    warnings: list[str] = field(default_factory=list)
    lost: list[Region] = field(default_factory=list)
    alpha_lost: bool = False

    @property
    def pixels(self) -> np.ndarray:
        """uint8, in a deep file uint16; (H, W, 3) RGB, in a gray file (H, W)."""
        return self.picture.pixels


class Codec:
    """A model, loaded and ready on a device.

    model: name, file or id (see `weights.find`). device: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda",
    "mps". threads: CPU threads, all cores if None. Raises ModelError, DeviceError, UsageError.
    """

    def __init__(self, model: str | os.PathLike[str], device: str = "auto", threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads cannot work")
        self.device = choose_device(device)  # first: it costs nothing to find out that it is not there
        self._path = weights.find(model).absolute()
        self.file = weights.load(self._path)
        self.name, self.id = self.file.name, self.file.id
        self.metric = self.file.metric
        self.threads = min(threads or available_cores(), MAX_THREADS)
        config = self.config = NetConfig.from_json(self.file.config)
        self.qualities = config.qualities
        self.entropy = integer_model(self.file)
        if (self.entropy.M, self.entropy.N) != (config.M, config.N if config.arch.has_hyperprior else 0):
            raise ModelError(f"model {self.name} is damaged: its networks do not fit together")
        self.transforms = open_transforms(config, self.file, self.device, self.threads)
        self._encoding = Encoding(self.file, self.entropy, self.transforms, self.threads)

    def __reduce__(self) -> tuple[type[Codec], tuple[str, str, int]]:
        """For another process, which loads the model's file anew."""
        return Codec, (str(self._path), self.device, self.threads)

    @classmethod
    def for_stream(cls, data: Buffer, device: str = "auto", threads: int | None = None) -> Codec:
        """The codec for the model that a .lic file names. Raises StreamError, ModelError."""
        return cls(weights.find(container.read_header(data).model_id.hex()), device, threads)

    # ---- encode

    def encode(
        self,
        picture: Picture | np.ndarray,
        quality: float | None = None,
        *,
        target: Target | None = None,
        effort: int = 0,
        slice_log2: int = 6,
    ) -> EncodeResult:
        """A picture with all its metadata, or pixels alone -> .lic file.

        Pixels are uint8 or uint16, (H, W, 3) RGB or (H, W) gray. Either quality or target: then the quality is searched
        for that meets it, see `lcodec.search.target`. effort: 0 to 9, how long latents are searched for this picture,
        see `lcodec.search.refine`; with a target at several qualities. Target and effort hold all latents in memory.

        Raises InputError for pixels of another shape or type, UsageError for a quality that the model does not have, a
        target that none of its qualities meets, or an effort out of range.
        """
        if not isinstance(picture, Picture):
            picture = Picture(picture)
        if quality is not None and target is not None:
            raise UsageError("a quality and a target do not go together")
        goal = quality if target is None else target
        if goal is None:
            raise UsageError("need a quality or a target")
        plan_of(effort)
        if isinstance(goal, Target) or effort:
            return self._encode_searched(picture, goal, effort, slice_log2)
        alpha = None if picture.alpha is None else encode_alpha(picture.alpha)
        return self.encode_bands(in_bands(picture), goal, alpha=alpha, slice_log2=slice_log2)

    def encode_bands(
        self, picture: BandedPicture, quality: float, *, alpha: bytes | None = None, slice_log2: int = 6
    ) -> EncodeResult:
        """A picture that comes in bands of rows -> .lic file.

        alpha: the payload of its ALPHA section for one that is in no band. Memory depends on the width only, but for
        the file: that of about two rows of tiles, with their latents.
        Raises UsageError for a quality that the model does not have, InputError if the bands do not make the picture.
        """
        start = time.perf_counter()
        box = self._container(picture, self._quality_code(quality), alpha, slice_log2)
        bands, own_alpha = picture.bands, None
        if picture.has_alpha:
            own_alpha = AlphaEncoder(picture.deep)
            bands = fill_transparent_bands(_taking_alpha(bands, own_alpha))
        taken = self._encoding.code(box, self._encoding.analyse(box.header, bands), own_alpha)
        return self._result(taken, 1, start, taken.entropy_s)

    def _encode_searched(self, picture: Picture, goal: float | Target, effort: int, slice_log2: int) -> EncodeResult:
        """The image is analysed once; what is searched only quantizes and codes its latents again."""
        start = time.perf_counter()
        banded = in_bands(picture)
        low, high = quality_to_code(self.qualities[0]), quality_to_code(self.qualities[-1])
        alpha = None if picture.alpha is None else encode_alpha(picture.alpha)
        box = self._container(banded, high, alpha, slice_log2)
        header = box.header
        latents = self._encoding.analyse(header, banded.bands).block(0, header.latent_height, 0, header.latent_width)
        analysed = time.perf_counter()
        shown, seen = visible(picture), seen_pixels(picture)

        def attempt(code: int, effort: int = effort) -> Coded:
            here = replace(box, header=replace(header, quality_code=code))
            plain = self._encoding.code(here, Bands(iter([latents])))
            if not effort:
                return plain
            # torch may not have been needed so far
            from lcodec.transforms.torch_backend import memory_errors, torch_threads

            with torch_threads(self.threads), memory_errors():
                return self._refine(here, plain, shown, seen, latents, effort)

        if not isinstance(goal, Target):
            taken, evaluations = attempt(self._quality_code(goal)), 1
        else:
            measure = {
                "size": lambda trial: len(trial.data),
                "bpp": lambda trial: 8 * len(trial.data) / (picture.width * picture.height),
                "psnr": lambda trial: self._psnr(shown, seen, trial),
            }[goal.kind]
            near, evaluations, first = None, 0, None
            if effort:
                # It changes little beside the range of qualities: its slow search begins where the fast one ends.
                try:
                    first = search(partial(attempt, effort=0), measure, goal, low, high)
                    near, evaluations = first.code, first.evaluations
                except Unreachable as end:  # perhaps not with effort
                    near, evaluations = end.code, end.evaluations
            try:
                found = search(attempt, measure, goal, low, high, near)
            except Unreachable:
                if first is None:
                    raise
                found = first  # what effort makes smaller falls short of what quality alone comes up to
            taken, evaluations = found.trial, evaluations + (0 if found is first else found.evaluations)
        return self._result(taken, evaluations, start, time.perf_counter() - analysed)

    def _refine(
        self,
        box: Container,
        plain: Coded,
        shown: np.ndarray,
        seen: np.ndarray | None,
        latents: np.ndarray,
        effort: int,
    ) -> Coded:
        """Search latents for this picture, and code them, if file and picture are the better for it; else `plain`.

        shown: see `visible`. seen: see `seen_pixels`. latents: as of `Encoding.analyse`, float32 (H/16, W/16, M).
        """
        from lcodec.search.refine import Refinement, error_weight, own_lmbda, search_lmbda, similarity_error

        header = box.header
        rows, columns = header.latent_height, header.latent_width
        quality = known_quality(header, self.file)
        gain = self.transforms.gain(quality)
        y_hat = plain.y_hat
        if y_hat is None:
            y_hat = decode_latents(container.unpack(plain.data), self.file, self.entropy, self.threads)

        def analysed(block: Slice) -> tuple[np.ndarray, np.ndarray | None]:
            _, y0, x0, h, w = block
            y = latents[y0 : y0 + h, x0 : x0 + w] * gain
            if not self.config.arch.has_hyperprior:
                return y, None
            place, bands = Box(y0, y0 + h, x0, x0 + w), Bands(iter([latents]))
            return y, hyper_analyse_block(self.transforms, bands, gain, place, rows, columns)

        blocks = list(numbered_slices(header))
        at = self._proxy.at(quality, table_set(self.file.table_qualities, header.quality))
        lmbda = search_lmbda(self.file, quality)
        for block in sorted(blocks, key=lambda b: abs(2 * b.number - len(blocks))) if lmbda is None else ():
            lmbda = own_lmbda(at, shown, block, *analysed(block))
            if lmbda is not None:
                break
        if lmbda is None:  # nowhere is there anything to be won or lost
            return plain
        refinement = Refinement(at, shown, y_hat, lmbda, effort, seen)
        slices, better, digest = [], np.empty_like(y_hat), LatentsDigest()
        for block in blocks:
            _, y0, x0, h, w = block
            y_fix, z_fix = refinement.of_slice(block, *analysed(block))
            data, better[y0 : y0 + h, x0 : x0 + w] = self.entropy.encode_slice(y_fix, z_fix, at.tables, self.threads)
            slices.append(data)
        digest.update(better)
        data = container.pack(replace(box, slices=slices))
        refined = Coded(header, data, digest.hexdigest(), better, plain.entropy_s)
        weight, pixels = error_weight(self.metric, lmbda), header.width * header.height

        def cost(trial: Coded) -> float:
            """The search estimates; what counts are files and pictures."""
            if self.metric == "ms-ssim":
                error = pixels * similarity_error(shown, self._reconstruct(trial))
            else:
                counted = pixels if seen is None else np.count_nonzero(seen)
                error = counted * 10 ** (-self._psnr(shown, seen, trial) / 10)
            return 8 * len(trial.data) + weight * error

        return min(plain, refined, key=cost)

    @cached_property
    def _proxy(self) -> Proxy:
        from lcodec.search.proxy import Proxy

        return Proxy(self.file, self.entropy, self.device)

    def _psnr(self, shown: np.ndarray, seen: np.ndarray | None, trial: Coded) -> float:
        """Of what a decoder will give, in dB. shown: see `visible`. seen: see `seen_pixels`."""
        pixels = self._reconstruct(trial)
        return psnr(shown.reshape(pixels.shape), pixels, seen)

    def _quality_code(self, quality: float) -> int:
        """Raises UsageError for a quality that the model does not have."""
        low, high = self.qualities[0], self.qualities[-1]
        if not low <= quality <= high:
            raise UsageError(f"model {self.name} has qualities {low:g} to {high:g}, not {quality:g}")
        return quality_to_code(quality)

    def _container(self, picture: BandedPicture, quality_code: int, alpha: bytes | None, slice_log2: int) -> Container:
        """The file without its slices. Raises UsageError for metadata that no decoder takes unasked."""
        size = sum(len(part) for part in (picture.icc, picture.exif, picture.xmp) if part is not None)
        if size > METADATA_LIMIT_BYTES:
            what = f"{size} bytes of metadata are more than the {METADATA_LIMIT_BYTES} that decoders take"
            raise UsageError(what, "leave out what is not needed, see --strip")
        header = Header(
            picture.width, picture.height, self.file.stream_id, quality_code, slice_log2, picture.gray, picture.deep
        )
        return Container(header, [], picture.icc, picture.exif, picture.xmp, alpha)

    def _result(self, taken: Coded, evaluations: int, start: float, entropy_s: float) -> EncodeResult:
        total = time.perf_counter() - start
        return EncodeResult(
            taken.data,
            {"transform": total - entropy_s, "entropy": entropy_s, "total": total},
            taken.digest,
            taken.header.quality,
            evaluations,
            lambda: self._reconstruct(taken),
        )

    # ---- decode

    def decode(
        self,
        data: Buffer,
        *,
        limits: Limits | None = None,
        region: tuple[int, int, int, int] | None = None,
        allow_partial: bool = False,
    ) -> DecodeResult:
        """.lic file -> image, or a region (x, y, width, height) of it in pixels, for which only the slices near it
        are decoded.

        limits: None for the usual ones, see `lcodec.limits`. allow_partial: damaged slices are filled and listed in
        `lost`. Raises StreamError, UsageError for a region
        that is not inside the image, and ModelError if the file needs another model.
        """
        decoding = self.decode_bands(data, limits=limits, region=region, allow_partial=allow_partial)
        picture = decoding.whole()
        return DecodeResult(
            picture,
            decoding.header,
            decoding.seconds,
            decoding.digest,
            decoding.warnings,
            decoding.lost,
            decoding.alpha_lost,
        )

    def decode_bands(
        self,
        data: Buffer,
        *,
        limits: Limits | None = None,
        region: tuple[int, int, int, int] | None = None,
        allow_partial: bool = False,
    ) -> Decoding:
        """Like `decode`, but the pixels come in bands from the top, so that memory depends on the width only."""
        return Decoding(
            data,
            self.file,
            self.entropy,
            self.transforms,
            threads=self.threads,
            limits=limits or Limits.from_environment(),
            region=region,
            allow_partial=allow_partial,
        )

    def _reconstruct(self, taken: Coded) -> np.ndarray:
        """The pixels that a decoder on this device will give, as in `Picture`."""
        header = taken.header
        if taken.y_hat is None:
            return self.decode(taken.data, limits=NO_LIMITS).pixels
        scale = self.transforms.inverse_gain(known_quality(header, self.file)) * np.float32(2.0**-self.entropy.fy)
        pixels = tiled_synthesis(self.transforms, taken.y_hat, scale, gray=header.gray, deep=header.deep)
        pixels = np.ascontiguousarray(crop(pixels, header.height, header.width))
        return pixels[:, :, 0] if header.gray else pixels


def visible(picture: Picture) -> np.ndarray:
    """(H, W, 3) or (H, W, 1) for the networks; what is fully transparent is filled so that it costs few bits."""
    pixels = picture.pixels if picture.alpha is None else fill_transparent(picture.pixels, picture.alpha)
    return pixels[:, :, None] if picture.gray else pixels


def seen_pixels(picture: Picture) -> np.ndarray | None:
    """bool (H, W): where an error can be seen, alpha above 0. None for everywhere, also where alpha hides all."""
    seen = None if picture.alpha is None else picture.alpha > 0
    return seen if seen is not None and seen.any() else None


def in_bands(picture: Picture) -> BandedPicture:
    """As `Codec.encode_bands` takes it, without its alpha."""
    pixels = visible(picture)
    bands = (pixels[row : row + BAND_ROWS] for row in range(0, picture.height, BAND_ROWS))
    return BandedPicture(
        bands, picture.height, picture.width, picture.gray, picture.deep, picture.icc, picture.exif, picture.xmp
    )


def _taking_alpha(bands: Iterator[np.ndarray], encoder: AlphaEncoder) -> Iterator[np.ndarray]:
    for band in bands:
        encoder.add(band[:, :, -1])
        yield band
