"""What a validation looks like: rate-distortion curves as SVG, and a strip of reconstructions."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch

from lcodec.image import centre
from lcodec.nets import Network
from lcodec.nets.similarity import MIN_MS_SSIM_PX, ms_ssim

from .data import Photographs, as_batch
from .loss import psnr
from .options import Options
from .validate import MAX_VALID_PX

STRIP_IMAGES = 4
STRIP_PX = 256
ANCHOR_IMAGES = 24  # of which JPEG's curve is
JPEG_QUALITIES = (10, 25, 50, 75, 90, 95)
WIDTH, HEIGHT, MARGIN = 720, 480, 56  # of the curve picture, px
MAX_CURVES = 12  # earlier validations that are drawn

Point = tuple[float, float]  # bpp, dB


def level(row: dict[str, Any], metric: str) -> float:
    """The quality of a row in dB: PSNR, or MS-SSIM as -10 log10(1 - MS-SSIM)."""
    return row["psnr"] if metric == "mse" else -10 * math.log10(max(1e-10, 1 - row.get("ms_ssim", 0.0)))


def history(log: Path, metric: str) -> list[tuple[int, list[Point]]]:
    """(step, curve) of every validation in a log, without lines that a crash has cut and values that are not finite."""
    curves = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            if "valid" in row:
                curve = [(r["bpp"], level(r, metric)) for r in row["valid"]]
                if all(math.isfinite(v) for point in curve for v in point):
                    curves.append((int(row["step"]), curve))
        except (ValueError, KeyError, TypeError):
            continue
    return curves


def jpeg_curve(
    images: Photographs, metric: str, stopped: Callable[[], bool] = lambda: False
) -> list[Point] | None:
    """JPEG 4:4:4 (Pillow, optimize) on some of the validation images, for orientation.

    stopped: asked before each image; once it says so, None is returned.
    """
    curve = []
    for quality in JPEG_QUALITIES:
        bpps, levels = [], []
        for whole in images.readable(ANCHOR_IMAGES):
            if stopped():
                return None
            pixels = np.ascontiguousarray(centre(whole, MAX_VALID_PX))
            file = io.BytesIO()
            PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
            x, x_hat = (
                torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255
                for p in (pixels, np.asarray(PIL.Image.open(file).convert("RGB")))
            )
            if metric == "ms-ssim":
                if min(pixels.shape[:2]) < MIN_MS_SSIM_PX:
                    continue
                levels.append(float(ms_ssim(x, x_hat)))
            else:
                levels.append(float(psnr((x_hat - x).square().mean())))
            bpps.append(8 * file.tell() / (pixels.shape[0] * pixels.shape[1]))
        if bpps:
            mean = sum(levels) / len(levels)
            curve.append((sum(bpps) / len(bpps), mean if metric == "mse" else level({"ms_ssim": mean}, metric)))
    return curve


def curve_svg(curves: Sequence[tuple[int, list[Point]]], anchor: Sequence[Point], metric: str) -> str:
    """The latest curve in colour, earlier ones paler, JPEG in grey; bits per pixel on a logarithmic axis."""
    step = max(1, math.ceil(len(curves) / MAX_CURVES))
    shown = list(curves)[::-1][::step][::-1]
    points = [p for _, c in shown for p in c] + list(anchor)
    low, high = (f(math.log2(max(p[0], 1e-4)) for p in points) for f in (min, max))
    bottom, top = math.floor(min(p[1] for p in points)), math.ceil(max(p[1] for p in points))
    high, top = max(high, low + 0.1), max(top, bottom + 1)

    def place(point: Point) -> str:
        x = MARGIN + (math.log2(max(point[0], 1e-4)) - low) / (high - low) * (WIDTH - 2 * MARGIN)
        y = HEIGHT - MARGIN - (point[1] - bottom) / (top - bottom) * (HEIGHT - 2 * MARGIN)
        return f"{x:.1f},{y:.1f}"

    def line(curve: Sequence[Point], colour: str, opacity: float, title: str) -> list[str]:
        places = [place(p) for p in curve]
        dots = "".join('<circle cx="{}" cy="{}" r="3"/>'.format(*p.split(",")) for p in places)
        path = f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(places)}"/>'
        return [f'<g fill="{colour}" opacity="{opacity:.2f}"><title>{title}</title>{path}{dots}</g>']

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    every = max(1, (top - bottom) // 8)
    for db in range(bottom, top + 1, every):
        _, y = place((2**low, db)).split(",")
        parts.append(f'<path stroke="#ddd" d="M{MARGIN} {y}H{WIDTH - MARGIN}"/>')
        parts.append(f'<text x="{MARGIN - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{db}</text>')
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        x, _ = place((2**exponent, bottom)).split(",")
        parts.append(f'<path stroke="#ddd" d="M{x} {MARGIN}V{HEIGHT - MARGIN}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{2.0**exponent:g}</text>')
    name = "PSNR" if metric == "mse" else "MS-SSIM"
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">bits per pixel</text>')
    parts.append(f'<text x="16" y="{MARGIN - 16}">{name}, dB</text>')
    if anchor:
        parts += line(anchor, "#888", 1.0, "JPEG 4:4:4")
    for i, (at, curve) in enumerate(shown):
        last = i == len(shown) - 1
        colour, opacity = ("#d62728", 1.0) if last else ("#1f77b4", 0.2 + 0.5 * i / len(shown))
        parts += line(curve, colour, opacity, f"step {at}")
    legend = f"step {shown[-1][0]} (red), JPEG 4:4:4 (grey)" if shown else "JPEG 4:4:4 (grey)"
    parts.append(f'<text x="{WIDTH - MARGIN}" y="{MARGIN - 16}" text-anchor="end">{legend}</text>')
    return "\n".join([*parts, "</svg>\n"])


@torch.no_grad()
def strip(network: Network, images: Photographs, options: Options) -> np.ndarray:
    """Middles of a few images, a row each: original, lowest, middle and highest quality; uint8 (H, W, 3)."""
    own = options.qualities
    qualities = sorted({own[0], own[(len(own) - 1) // 2], own[-1]})
    network.eval()
    rows = []
    for whole in images.readable(STRIP_IMAGES):
        pixels = centre(whole, STRIP_PX)
        height, width = pixels.shape[:2]
        x = as_batch(pixels).to(network.log_gain.device, memory_format=torch.channels_last)
        tiles = [_tile(pixels, "original")]
        for quality in qualities:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=options.amp):
                out = network(x, quality, mode="coder")
            x_hat = out.x_hat[0, :, :height, :width].float().clamp(0, 1).mul(255).round().byte()
            bpp = float(out.bits()) / (height * width)
            name = f"q {quality:g}  {bpp:.3f} bpp" if quality else f"{bpp:.3f} bpp"
            tiles.append(_tile(x_hat.permute(1, 2, 0).cpu().numpy(), name))
        rows.append(np.concatenate(tiles, 1))
    network.train()
    return np.concatenate(rows, 0)


def _tile(pixels: np.ndarray, label: str) -> np.ndarray:
    """(STRIP_PX, STRIP_PX, 3): the picture on white, with a label on top."""
    tile = np.full((STRIP_PX, STRIP_PX, 3), 255, np.uint8)
    tile[: pixels.shape[0], : pixels.shape[1]] = pixels
    image = PIL.Image.fromarray(tile)
    draw = PIL.ImageDraw.Draw(image)
    draw.rectangle((0, 0, 8 + draw.textlength(label), 14), fill="black")
    draw.text((4, 2), label, fill="white")
    return np.asarray(image)
