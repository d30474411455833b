"""Analysis g_a and synthesis g_s of the transform families.

            gdn (Ballé 2017)          residual (Cheng 2020)            attention (Cheng 2020)
    image   (B, 3, H, W)
      |     conv5x5 /2, GDN           RB /2, RB                        RB /2, RB
      |     conv5x5 /2, GDN           RB /2, RB                        RB /2, attention, RB
      |     conv5x5 /2, GDN           RB /2, RB                        RB /2, RB
      |     conv5x5 /2                conv3x3 /2                       conv3x3 /2, attention
      y     (B, M, H/16, W/16)

    shuffle (ours): pixel unshuffle by 8, 1x1 to N, three `MixingBlock`s at 1/8, conv3x3 /2.

Synthesis is the mirror image. Positions in the Sequential are CompressAI's, activations count. Cheng et al. have M = N;
where M is larger, the blocks at 1/16 take and give M channels, and have the widths of N inside.
"""

from __future__ import annotations

from torch import nn

from .layers import (
    GDN,
    AttentionBlock,
    MixingBlock,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv,
    conv1x1,
    conv3x3,
    deconv,
    subpel_conv3x3,
)


def analysis(transform: str, N: int, M: int) -> nn.Sequential:
    """g_a: image (B, 3, H, W) in [0, 1] -> y (B, M, H/16, W/16)."""
    if transform == "gdn":
        return nn.Sequential(
            conv(3, N), GDN(N),
            conv(N, N), GDN(N),
            conv(N, N), GDN(N),
            conv(N, M),
        )  # fmt: skip
    if transform == "residual":
        return nn.Sequential(
            ResidualBlockWithStride(3, N), ResidualBlock(N),
            ResidualBlockWithStride(N, N), ResidualBlock(N),
            ResidualBlockWithStride(N, N), ResidualBlock(N),
            conv3x3(N, M, stride=2),
        )  # fmt: skip
    if transform == "attention":
        return nn.Sequential(
            ResidualBlockWithStride(3, N), ResidualBlock(N),
            ResidualBlockWithStride(N, N), AttentionBlock(N), ResidualBlock(N),
            ResidualBlockWithStride(N, N), ResidualBlock(N),
            conv3x3(N, M, stride=2), AttentionBlock(M, N // 2),
        )  # fmt: skip
    if transform == "shuffle":
        return nn.Sequential(
            nn.PixelUnshuffle(8), conv1x1(192, N),
            MixingBlock(N), MixingBlock(N), MixingBlock(N),
            conv3x3(N, M, stride=2),
        )  # fmt: skip
    raise ValueError(f"unknown transform {transform!r}")


def synthesis(transform: str, N: int, M: int) -> nn.Sequential:
    """g_s: y_hat (B, M, H/16, W/16) -> x_hat (B, 3, H, W), nominally in [0, 1], not clamped."""
    if transform == "gdn":
        return nn.Sequential(
            deconv(M, N), GDN(N, inverse=True),
            deconv(N, N), GDN(N, inverse=True),
            deconv(N, N), GDN(N, inverse=True),
            deconv(N, 3),
        )  # fmt: skip
    if transform == "residual":
        return nn.Sequential(
            ResidualBlock(M, N), ResidualBlockUpsample(M, N),
            ResidualBlock(N), ResidualBlockUpsample(N, N),
            ResidualBlock(N), ResidualBlockUpsample(N, N),
            ResidualBlock(N), subpel_conv3x3(N, 3, 2),
        )  # fmt: skip
    if transform == "attention":
        return nn.Sequential(
            AttentionBlock(M, N // 2), ResidualBlock(M, N), ResidualBlockUpsample(M, N),
            ResidualBlock(N), ResidualBlockUpsample(N, N), AttentionBlock(N),
            ResidualBlock(N), ResidualBlockUpsample(N, N),
            ResidualBlock(N), subpel_conv3x3(N, 3, 2),
        )  # fmt: skip
    if transform == "shuffle":
        return nn.Sequential(
            deconv(M, N, 3),
            MixingBlock(N), MixingBlock(N), MixingBlock(N),
            conv1x1(N, 192), nn.PixelShuffle(8),
        )  # fmt: skip
    raise ValueError(f"unknown transform {transform!r}")
