"""Hyper-analysis h_a, hyper-synthesis h_s, and the autoregressive parts of the context family."""

from __future__ import annotations

from torch import nn

from .layers import conv, conv1x1, conv3x3, deconv, subpel_conv3x3


def hyper_analysis(transform: str, entropy: str, N: int, M: int) -> nn.Module:
    """h_a: y (B, M, H/16, W/16) -> z (B, N, H/64, W/64). Of |y| where only scales are modelled (see `Network`)."""
    if transform in ("residual", "attention"):
        return nn.Sequential(
            conv3x3(N, N), nn.LeakyReLU(), conv3x3(N, N), nn.LeakyReLU(), conv3x3(N, N, stride=2), nn.LeakyReLU(),
            conv3x3(N, N), nn.LeakyReLU(), conv3x3(N, N, stride=2),
        )  # fmt: skip
    act = nn.ReLU if entropy == "hyperprior" else nn.LeakyReLU
    return nn.Sequential(conv(M, N, 3, 1), act(), conv(N, N), act(), conv(N, N))


def hyper_synthesis(transform: str, entropy: str, N: int, M: int) -> nn.Sequential:
    """h_s: z_hat (B, N, H/64, W/64) -> (B, M or 2M, H/16, W/16): scales, or scales and means, or context input."""
    if transform == "shuffle":  # 2 kMAC/pixel at N = 192, M = 320, a seventh of the layers below
        return nn.Sequential(
            conv3x3(N, N), nn.LeakyReLU(), subpel_conv3x3(N, N, 2), nn.LeakyReLU(),
            subpel_conv3x3(N, N, 2), nn.LeakyReLU(), conv1x1(N, 2 * M),
        )  # fmt: skip
    if transform in ("residual", "attention"):
        return nn.Sequential(
            conv3x3(N, N), nn.LeakyReLU(), subpel_conv3x3(N, N, 2), nn.LeakyReLU(),
            conv3x3(N, N * 3 // 2), nn.LeakyReLU(), subpel_conv3x3(N * 3 // 2, N * 3 // 2, 2), nn.LeakyReLU(),
            conv3x3(N * 3 // 2, N * 2),
        )  # fmt: skip
    if entropy == "hyperprior":
        return nn.Sequential(deconv(N, N), nn.ReLU(), deconv(N, N), nn.ReLU(), conv(N, M, 3, 1), nn.ReLU())
    return nn.Sequential(
        deconv(N, M), nn.LeakyReLU(), deconv(M, M * 3 // 2), nn.LeakyReLU(), conv(M * 3 // 2, M * 2, 3, 1)
    )


def entropy_parameters(M: int) -> nn.Sequential:
    """1x1 layers: cat(h_s output, context) (B, 4M, h, w) -> scales, means (B, 2M, h, w). Minnen et al. 2018."""
    return nn.Sequential(
        conv1x1(M * 12 // 3, M * 10 // 3), nn.LeakyReLU(),
        conv1x1(M * 10 // 3, M * 8 // 3), nn.LeakyReLU(),
        conv1x1(M * 8 // 3, M * 6 // 3),
    )  # fmt: skip
