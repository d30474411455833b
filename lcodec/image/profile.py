"""ICC profiles as far as this program looks into them: what they are for, and what a PNG says in other words."""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
import PIL.Image
import PIL.ImageCms

_HEADER_BYTES = 128
_D50 = np.array([0.9642, 1.0, 0.8249])  # X, Y, Z of the ICC's white
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green, blue
P3_CHROMATICITIES = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB_GAMMA = 0.45455
CICP_SRGB, CICP_DISPLAY_P3 = (1, 13), (12, 13)  # primaries and transfer of ITU-T H.273
_CURVE_POINTS = 1024
SRGB_STEPS = 2  # of 255, by which colours of an sRGB profile may differ: its curve is a table, rounded


def colour_space(profile: bytes) -> str | None:
    """RGB, GRAY, CMYK, Lab, ...: what samples a profile is for; None if it is not a profile at all."""
    if len(profile) < _HEADER_BYTES or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("latin-1").strip()


def describe(profile: bytes) -> str | None:
    """The name that a profile gives itself, None if it cannot be read."""
    try:
        text = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.profile_description
    except Exception:  # littlecms raises OSError, Pillow more
        return None
    return text or None


@lru_cache(maxsize=64)  # many pictures have the same
def is_srgb(profile: bytes) -> bool:
    """Whether it is called so, and colours that go through it stay as they are, within two steps of 255.

    Called so are also a linear one (GIMP's "Linear sRGB") and wide ones with its curve ("Rec2020 ... srgbtrc").
    """
    if "srgb" not in (describe(profile) or "").lower():
        return False
    gray = colour_space(profile) == "GRAY"
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    probes = np.stack([levels, np.roll(levels, 17), np.roll(levels, 34)], axis=-1)
    samples = np.repeat(levels[:, None], 3, axis=1) if gray else np.concatenate([probes, levels[:, None].repeat(3, 1)])
    shown = PIL.Image.fromarray(levels[None] if gray else samples[None])
    try:
        mine = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        through = PIL.ImageCms.buildTransform(
            mine,
            PIL.ImageCms.createProfile("sRGB"),
            shown.mode,
            "RGB",
            renderingIntent=PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        seen = np.asarray(PIL.ImageCms.applyTransform(shown, through))[0]
    except Exception:  # littlecms raises OSError, Pillow more: what does not work is not taken for sRGB
        return False
    return int(np.abs(seen.astype(int) - samples).max()) <= SRGB_STEPS


def from_gamma(gamma: float, chromaticities: tuple[float, ...] | None, gray: bool) -> bytes | None:
    """The profile that says what gAMA and cHRM of a PNG say; None where these make no sense.

    gamma: exponent from light to samples, as in gAMA: 0.45455 for 1/2.2. chromaticities: x and y of white, red, green
    and blue; None for those of sRGB. ICC.1:2001 (version 2), colours adapted to D50 by Bradford.
    """
    if not 0.01 <= gamma <= 100:
        return None
    curve = struct.pack(">IH", 1, min(max(round(256 / gamma), 1), 65535))
    return _made(f"PNG gamma {gamma:.5f}", chromaticities or SRGB_CHROMATICITIES, curve, gray)


def display_p3() -> bytes | None:
    """Display P3: its primaries, white of D65, the curve of sRGB (IEC 61966-2-1)."""
    v = np.linspace(0, 1, _CURVE_POINTS)
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    curve = struct.pack(">I", _CURVE_POINTS) + np.rint(65535 * light).astype(">u2").tobytes()
    return _made("Display P3", P3_CHROMATICITIES, curve, False)


def _made(name: str, chromaticities: tuple[float, ...], curve: bytes, gray: bool) -> bytes | None:
    """curve: count and values of a tag "curv", from samples to light. None if the chromaticities make no sense."""
    x = np.array(chromaticities, np.float64).reshape(-1, 2)
    if x.shape != (4, 2) or (x[:, 1] <= 0).any():
        return None
    white, *primaries = (np.array([a / b, 1.0, (1 - a - b) / b]) for a, b in x)
    matrix = np.stack(primaries, axis=1)
    try:
        matrix = matrix * np.linalg.solve(matrix, white)
        cone_white = _BRADFORD @ white
        adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / cone_white) @ _BRADFORD
    except np.linalg.LinAlgError:
        return None
    matrix = adapt @ matrix
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 100:
        return None

    def fixed(values: np.ndarray) -> bytes:
        return struct.pack(">3i", *(round(65536 * float(v)) for v in values))

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(values)

    text = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" + bytes(8 + 3 + 67)
    curve = b"curv\0\0\0\0" + curve
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(_D50)}
    if gray:
        tags[b"kTRC"] = curve
    else:
        tags |= {b"rXYZ": xyz(matrix[:, 0]), b"gXYZ": xyz(matrix[:, 1]), b"bXYZ": xyz(matrix[:, 2])}
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, data = struct.pack(">I", len(tags)), b""
    start = _HEADER_BYTES + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    space = b"GRAY" if gray else b"RGB "
    date = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    header = struct.pack(">I4x", start + len(data)) + b"\2\x20\0\0" + b"mntr" + space + b"XYZ " + date + b"acsp"
    header = header.ljust(68, b"\0") + fixed(_D50)  # rendering intent 0 before it, the illuminant from byte 68
    return header.ljust(_HEADER_BYTES, b"\0") + table + data
