"""What a run of `lcodec bench` leaves in its folder, described once for those who write it and those who read it.

    OUT/results.json               Results
    OUT/results.csv                the rows, a column for each field of Row
    OUT/streams/CODEC/qQ/NAME.ext  each compressed file
    OUT/rd.svg, rd.png, report.html

Times are in seconds, rates in bits per pixel of the whole file, BD-rates in per cent. A number that is not defined is
null, never a made-up one: PSNR of equal images is null with `error` null as well.
"""

from __future__ import annotations

from typing import Literal, TypedDict

FORMAT = 1

Kind = Literal["lcodec", "pillow", "program", "compressai", "published"]

# Every metric: larger is better. "ms_ssim_db" is -10 log10(1 - MS-SSIM).
METRICS: dict[str, str] = {
    "psnr": "PSNR RGB (dB)",
    "psnr_yuv": "PSNR YUV 6:1:1 (dB)",
    "ms_ssim": "MS-SSIM",
    "ms_ssim_db": "MS-SSIM (dB)",
    "ssimulacra2": "SSIMULACRA2",
}


class ImageEntry(TypedDict):
    """An image of the run. name: path below the folder, with "/"; unique. sha256: of the file."""

    name: str
    sha256: str
    width: int
    height: int


class CodecEntry(TypedDict):
    """A codec that was asked for. missing: why it could not be measured, null if it was. detail: settings, versions.

    source: the model file, or the TOML file of a program, with which it was made; empty for what is built in.
    qualities: what was asked for this time, which is what curves are made of; rows of others stay. digest: of what
    decides the bytes and is told nowhere else here: commands, a checkpoint's content; empty if there is nothing more.
    Results of before have neither.
    """

    name: str
    label: str
    kind: Kind
    missing: str | None
    model_id: str | None
    detail: str
    source: str
    qualities: list[float]
    digest: str


class Row(TypedDict):
    """One image, coded once. error: why there are no numbers, null if there are."""

    image: str
    codec: str
    quality: float
    bytes: int | None
    bpp: float | None
    psnr: float | None
    psnr_yuv: float | None
    ms_ssim: float | None
    ms_ssim_db: float | None
    ssimulacra2: float | None
    encode_s: float | None
    decode_s: float | None
    error: str | None


class Point(TypedDict, total=False):
    """Means over the images at one quality. A metric without a value in every image is null.

    images: how many, null for published curves. ms_ssim_db: of the mean MS-SSIM, as in CompressAI's published curves.
    """

    quality: float
    images: int
    bpp: float
    psnr: float | None
    psnr_yuv: float | None
    ms_ssim: float | None
    ms_ssim_db: float | None
    ssimulacra2: float | None


class Curve(TypedDict):
    """Points in the order of quality, of published curves too."""

    codec: str
    points: list[Point]


class BDEntry(TypedDict):
    """A codec against the anchor, on the mean curves.

    bd_rate: per cent of bits at equal quality (negative is better). low, high: 95 % of bootstrap samples of the images
    lie between. range: common range of the metric. overlap: that range, as a share of the range of both together.
    bd_quality: mean difference of the metric at equal rate (BD-PSNR where the metric is PSNR). images: how many of the
    run it is over, 0 where there is no number; results of before do not have it. note: a warning, or why there is no
    number; empty if there is nothing to say.
    """

    codec: str
    metric: str
    bd_rate: float | None
    low: float | None
    high: float | None
    range: list[float] | None
    overlap: float
    bd_quality: float | None
    images: int
    note: str


class SpeedEntry(TypedDict):
    """One codec at one quality on one image of `pixels` pixels.

    warm: model loaded, median of runs. cold: a whole process, from start to exit, null where that means nothing. parts:
    seconds of "encode_transform", "encode_entropy", "decode_transform", ... where they are known.
    mp_s_*: megapixels a second, warm. peak_mib: peak resident memory of a whole process that encodes and decodes.
    """

    codec: str
    quality: float
    image: str
    pixels: int
    threads: int
    device: str
    warm_encode_s: float
    warm_decode_s: float
    parts: dict[str, float]
    cold_encode_s: float | None
    cold_decode_s: float | None
    mp_s_encode: float
    mp_s_decode: float
    peak_mib: float | None


class Skipped(TypedDict):
    """An image that could not be read."""

    name: str
    error: str


class Results(TypedDict):
    """results.json. machine: "cpu", "cores", "threads", "device", "system", "python", "torch", ...: text or numbers.

    folder: of the images. date: UTC, when the run was finished or broken off. complete: not broken off.
    """

    format: int
    lcodec: str
    command: str
    date: str
    folder: str
    complete: bool
    machine: dict[str, str | int | float]
    anchor: str
    metrics: list[str]
    images: list[ImageEntry]
    skipped: list[Skipped]
    codecs: list[CodecEntry]
    rows: list[Row]
    curves: list[Curve]
    bd: list[BDEntry]
    speed: list[SpeedEntry]
