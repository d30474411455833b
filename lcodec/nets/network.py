"""The network as a whole: transforms and entropy model composed from one architecture table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lcodec.entropy.tables import GAUSSIAN, SCALE_SPREAD, Spread
from lcodec.errors import ModelError, UsageError

from .config import NetConfig
from .hyper import context_prediction, entropy_parameters, hyper_analysis, hyper_synthesis
from .layers import MaskedConv2d, type_a_mask
from .likelihood import FactorizedPrior, add_noise, gaussian_likelihood, round_ste
from .transforms import analysis, synthesis

# Of the context network over y, each with what the one before made of it (see `Network.forward`): as many as training
# takes if nothing else is said, and an estimate of what the coder does.
TRAINING_PASSES = 2
ESTIMATE_PASSES = 8


class Output(NamedTuple):
    """x_hat (B, 3, H, W); likelihoods of each latent, y (B, M, H/16, W/16) and z (B, N, H/64, W/64) or None."""

    x_hat: Tensor
    likelihoods_y: Tensor
    likelihoods_z: Tensor | None

    def bits(self) -> Tensor:
        """Estimated bits of each image, (B,)."""
        bits = -torch.log2(self.likelihoods_y).sum((1, 2, 3))
        if self.likelihoods_z is not None:
            bits = bits - torch.log2(self.likelihoods_z).sum((1, 2, 3))
        return bits


class Network(nn.Module):
    """One of the architectures at some width and set of qualities.

             x (B, 3, H, W)                                      x_hat
             |                                                     ^
            g_a                                                   g_s
             |                                                     |
         * gain[q]                                          * inverse_gain[q]
             |                                                     |
             y (B, M, H/16, W/16) ---- quantise ----> y_hat -------+
             |                           ^    |
            h_a                   scales, means  \\
             |                           |        context_prediction   (context family only)
             z (B, N, H/64, W/64)        |        /
             |                    entropy_parameters
          quantise ---> z_hat -----> h_s

    Factorized: no h_a, h_s; y itself has a `FactorizedPrior`. Hyperprior: h_s gives scales, h_a sees |y|.
    Mean-scale: h_s gives scales and means. Context: h_s and a masked convolution over y_hat feed 1x1 layers
    that give scales and means.

    context_passes: of the context network in training, see `forward`. spread: what training takes y to be, given its
    scale; see `likelihood.gaussian_likelihood`.
    gain, inverse_gain (Q, M): log domain parameters, one row a quality; prior_log_scale (Q, channels of the prior).
    """

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.context_passes = TRAINING_PASSES
        self.spread: Spread = GAUSSIAN
        N, M, arch = config.N, config.M, config.arch
        self.g_a = analysis(arch.transform, N, M)
        self.g_s = synthesis(arch.transform, N, M)
        if arch.has_hyperprior:
            self.h_a = hyper_analysis(arch.transform, arch.entropy, N, M)
            self.h_s = hyper_synthesis(arch.transform, arch.entropy, N, M)
        if arch.entropy == "context":
            self.context_prediction = context_prediction(arch.transform, N, M)
            self.entropy_parameters = entropy_parameters(arch.transform, N, M)
        prior_channels = N if arch.has_hyperprior else M
        self.entropy_bottleneck = FactorizedPrior(prior_channels)
        Q = len(config.qualities)
        self.log_gain = nn.Parameter(torch.zeros(Q, M), requires_grad=config.variable_rate)
        self.log_inverse_gain = nn.Parameter(torch.zeros(Q, M), requires_grad=config.variable_rate)
        self.prior_log_scale = nn.Parameter(torch.zeros(Q, prior_channels), requires_grad=config.variable_rate)

    def channels_last(self) -> Network:
        """Itself, with weights in the memory order in which convolutions are fastest."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    # ---- variable rate

    def interpolate(self, rows: Tensor, quality: Tensor | float) -> Tensor:
        """Rows (Q, C) in the log domain at `quality` (a number or (B,)) -> (B, C): geometric interpolation of gains."""
        knots = torch.tensor(self.config.qualities, dtype=torch.float32, device=rows.device)
        q = torch.as_tensor(quality, dtype=torch.float32, device=rows.device).reshape(-1).contiguous()
        if len(knots) == 1:
            return rows.expand(len(q), -1)
        # of a tensor on a GPU it would be a wait, and a break in what torch.compile makes
        known = not isinstance(quality, Tensor) or (q.device.type == "cpu" and not torch.compiler.is_compiling())
        if known and bool((q < knots[0]).any() | (q > knots[-1]).any()):
            raise UsageError(
                f"quality {q.tolist()} is outside {self.config.qualities[0]:g} to {self.config.qualities[-1]:g}"
            )
        i = torch.searchsorted(knots, q, right=True).clamp(1, len(knots) - 1)
        t = ((q - knots[i - 1]) / (knots[i] - knots[i - 1]))[:, None]
        return torch.lerp(rows[i - 1], rows[i], t)

    def gain(self, quality: Tensor | float) -> Tensor:
        """(B, M), multiplies g_a(x)."""
        return self.interpolate(self.log_gain, quality).exp()

    def inverse_gain(self, quality: Tensor | float) -> Tensor:
        """(B, M), multiplies y_hat before g_s."""
        return self.interpolate(self.log_inverse_gain, quality).exp()

    def prior_scale(self, quality: Tensor | float) -> Tensor:
        """(B, C), multiplies the argument of the factorized density."""
        return self.interpolate(self.prior_log_scale, quality).exp()

    # ---- the parts, as the codec calls them

    def analyse(self, x: Tensor, quality: Tensor | float) -> tuple[Tensor, Tensor | None]:
        """x (B, 3, H, W) in [0, 1], H and W multiples of 64 -> y, z (None for the factorized family)."""
        y = self.g_a(x) * self.gain(quality)[:, :, None, None]
        return y, self.hyper_analyse(y) if self.config.arch.has_hyperprior else None

    def hyper_analyse(self, y: Tensor) -> Tensor:
        return self.h_a(y.abs() if self.config.arch.entropy == "hyperprior" else y)

    def synthesise(self, y_hat: Tensor, quality: Tensor | float) -> Tensor:
        """y_hat (B, M, H/16, W/16) -> x_hat (B, 3, H, W), nominally [0, 1], not clamped."""
        return self.g_s(y_hat * self.inverse_gain(quality)[:, :, None, None])

    # ---- everything at once, for training and estimates

    def forward(self, x: Tensor, quality: Tensor | float | None = None, mode: str = "round") -> Output:
        """Estimate rate and reconstruction.

        mode "round": as CompressAI's forward in eval mode (the context family rounds y itself); "noise": additive noise
        everywhere; "ste": noise for the rate, straight-through rounding for what enters h_s, context and g_s;
        "coder": as the coder does it, rounding y - means, by the distribution that its tables have. What the context
        sees depends on the means before it: "ste" and "coder" start from rounded y and repeat, `context_passes` and
        ESTIMATE_PASSES times in all. That leaves few latents different from what the coder finds one after the other,
        but they are in each other's context: with lc-s 40 passes, nearly the coder's order, estimate 0.8 % more bits
        than 2 passes at quality 1, 0.2 % more than 8, and at quality 6 as many.
        quality: a number or (B,), None for the first quality of the network.
        """
        q = self._each(quality, x)
        y_hat, likelihoods_y, likelihoods_z = self.latents(x, q, mode)
        return Output(self.synthesise(y_hat, q), likelihoods_y, likelihoods_z)

    def latents(
        self, x: Tensor, quality: Tensor | float | None = None, mode: str = "round"
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`forward` without synthesis: y_hat and the likelihoods of y and z, for training the entropy model alone."""
        q = self._each(quality, x)
        y, z = self.analyse(x, q)
        y = y.float()
        prior, value_scale = self.entropy_bottleneck, self.prior_scale(q)
        medians = prior.medians[:, None, None]
        if z is None:
            y_hat, likelihoods_y = self._factorized(y, medians, value_scale, mode)
            return y_hat, likelihoods_y, None
        z_hat, likelihoods_z = self._factorized(z.float(), medians, value_scale, mode)
        params = self.h_s(z_hat)
        entropy = self.config.arch.entropy
        means: Tensor | float = 0.0
        if entropy == "hyperprior":
            scales = params.float()
        else:
            if entropy == "context":
                params = self._with_context(params, y, mode)
            scales, means = params.float().chunk(2, 1)
        if mode in ("noise", "ste"):
            v = add_noise(y)
            likelihoods_y = gaussian_likelihood(v - means, scales, self.spread)
            y_hat = v if mode == "noise" else round_ste(y - means) + means
        else:
            y_hat = torch.round(y - means) + means
            likelihoods_y = gaussian_likelihood(y_hat - means, scales, SCALE_SPREAD if mode == "coder" else GAUSSIAN)
            if entropy == "context" and mode == "round":
                y_hat = torch.round(y)
        return y_hat, likelihoods_y, likelihoods_z

    def _with_context(self, params: Tensor, y: Tensor, mode: str) -> Tensor:
        """Hyper-parameters and y (B, M, h, w) -> scales and means (B, 2M, h, w), all positions at once."""

        def predict(y_ctx: Tensor) -> Tensor:
            return self.entropy_parameters(torch.cat((params, self.context_prediction(y_ctx)), 1))

        if mode in ("noise", "round"):
            return predict(add_noise(y) if mode == "noise" else torch.round(y))
        y_ctx = y + (torch.round(y) - y).detach()
        device = y.device.type
        cast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        for _ in range((self.context_passes if mode == "ste" else ESTIMATE_PASSES) - 1):
            # cached here, the cast weights would come back below, in older versions of torch without their gradients
            with torch.no_grad(), torch.autocast(device, *cast, cache_enabled=False):
                means = predict(y_ctx).float().chunk(2, 1)[1]
                y_hat = torch.round(y - means) + means
            y_ctx = y + (y_hat - y).detach()
        return predict(y_ctx)

    def _each(self, quality: Tensor | float | None, x: Tensor) -> Tensor:
        """A quality for each image of the batch, (B,)."""
        if quality is None:
            quality = self.config.qualities[0]
        return torch.as_tensor(quality, dtype=torch.float32, device=x.device).expand(x.shape[0])

    def _factorized(
        self, v: Tensor, medians: Tensor, value_scale: Tensor, mode: str
    ) -> tuple[Tensor, Tensor]:
        prior = self.entropy_bottleneck
        if mode in ("round", "coder"):
            v_hat = torch.round(v - medians) + medians
            return v_hat, prior.likelihood(v_hat, value_scale)
        noisy = add_noise(v)
        return (
            noisy if mode == "noise" else round_ste(v - medians) + medians,
            prior.likelihood(noisy, value_scale),
        )


# ---- networks out of files


def empty_network(config: NetConfig) -> Network:
    """Takes no memory until `fill_network`: a description may ask for more than the tensors behind it."""
    with torch.device("meta"):
        return Network(config)


def fill_network(network: Network, state: Mapping[str, Tensor]) -> None:
    """Give an empty network copies of these tensors, in its own types; masks are made anew.

    Raises RuntimeError, as `load_state_dict` does, if they are not the tensors of such a network, and ModelError for
    one that is not there as a whole: a few bytes can say that they are a large tensor.
    """
    own = network.state_dict()
    filled: dict[str, Tensor] = {}
    for name, value in state.items():
        if name not in own or value.shape != own[name].shape:
            raise RuntimeError(f"no tensor {name} of shape {tuple(value.shape)}")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ModelError(f"tensor {name} is not there as a whole")
        filled[name] = value.detach().to(own[name].dtype, copy=True, memory_format=torch.contiguous_format)
    for name, module in network.named_modules():
        if isinstance(module, MaskedConv2d):
            filled[f"{name}.mask"] = type_a_mask(module.weight.shape)
    network.load_state_dict(filled, assign=True)
