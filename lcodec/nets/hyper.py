"""Hyper-analysis h_a, hyper-synthesis h_s, and the autoregressive parts of the context family."""

from __future__ import annotations

from torch import nn

from .layers import MaskedConv2d, conv, conv1x1, conv3x3, deconv, subpel_conv3x3


def hyper_analysis(transform: str, entropy: str, N: int, M: int) -> nn.Module:
    """h_a: y (B, M, H/16, W/16) -> z (B, N, H/64, W/64). Of |y| where only scales are modelled (see `Network`)."""
    if transform in ("residual", "attention"):
        return nn.Sequential(
            conv3x3(M, N), nn.LeakyReLU(), conv3x3(N, N), nn.LeakyReLU(), conv3x3(N, N, stride=2), nn.LeakyReLU(),
            conv3x3(N, N), nn.LeakyReLU(), conv3x3(N, N, stride=2),
        )  # fmt: skip
    if transform == "shuffle":  # 0.6 kMAC/pixel at N = 192, M = 320, a sixth of the layers below
        return nn.Sequential(
            conv1x1(M, N), nn.LeakyReLU(), conv3x3(N, N, stride=2), nn.LeakyReLU(), conv3x3(N, N, stride=2)
        )  # fmt: skip
    act = nn.ReLU if entropy == "hyperprior" else nn.LeakyReLU
    return nn.Sequential(conv(M, N, 3, 1), act(), conv(N, N), act(), conv(N, N))


def hyper_synthesis(transform: str, entropy: str, N: int, M: int) -> nn.Sequential:
    """h_s: z_hat (B, N, H/64, W/64) -> (B, M or 2M, H/16, W/16): scales, or scales and means, or context input."""
    if transform == "shuffle":  # 0.7 kMAC/pixel at N = 192, a twentieth of the layers below
        wide, narrow = max(1, N * 2 // 3), max(1, N // 2)
        return nn.Sequential(
            conv3x3(N, wide), nn.LeakyReLU(), subpel_conv3x3(wide, wide, 2), nn.LeakyReLU(),
            subpel_conv3x3(wide, narrow, 2), nn.LeakyReLU(), conv1x1(narrow, shuffle_features(N)),
        )  # fmt: skip
    if transform in ("residual", "attention"):
        return nn.Sequential(
            conv3x3(N, N), nn.LeakyReLU(), subpel_conv3x3(N, N, 2), nn.LeakyReLU(),
            conv3x3(N, N * 3 // 2), nn.LeakyReLU(), subpel_conv3x3(N * 3 // 2, N * 3 // 2, 2), nn.LeakyReLU(),
            conv3x3(N * 3 // 2, M * 2),
        )  # fmt: skip
    if entropy == "hyperprior":
        return nn.Sequential(deconv(N, N), nn.ReLU(), deconv(N, N), nn.ReLU(), conv(N, M, 3, 1), nn.ReLU())
    return nn.Sequential(
        deconv(N, M), nn.LeakyReLU(), deconv(M, M * 3 // 2), nn.LeakyReLU(), conv(M * 3 // 2, M * 2, 3, 1)
    )


def shuffle_features(N: int) -> int:
    """Channels of each of the two things that lc-s makes scales and means of: the output of h_s and the context."""
    return max(1, N * 4 // 3)


def context_prediction(transform: str, N: int, M: int) -> MaskedConv2d:
    """y_hat (B, M, h, w) -> (B, 2M, h, w); lc-s sees its direct neighbours only and keeps fewer channels."""
    return MaskedConv2d(M, shuffle_features(N), 3) if transform == "shuffle" else MaskedConv2d(M, 2 * M, 5)


def entropy_parameters(transform: str, N: int, M: int) -> nn.Sequential:
    """1x1 layers: cat(h_s output, context) (B, 4M, h, w) -> scales, means (B, 2M, h, w). Minnen et al. 2018."""
    if transform == "shuffle":
        return nn.Sequential(conv1x1(2 * shuffle_features(N), 2 * N), nn.LeakyReLU(), conv1x1(2 * N, 2 * M))
    return nn.Sequential(
        conv1x1(M * 12 // 3, M * 10 // 3), nn.LeakyReLU(),
        conv1x1(M * 10 // 3, M * 8 // 3), nn.LeakyReLU(),
        conv1x1(M * 8 // 3, M * 6 // 3),
    )  # fmt: skip
