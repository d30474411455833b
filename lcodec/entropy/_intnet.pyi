from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcodec.entropy._rans import Decoder, Tables

LayerKind = Literal["conv", "context", "deconv", "subpel"]
Output = Literal["int16", "int32", "acc"]

MAX_THREADS: int
MAX_ACTIVATION: int
MAX_SUM: int
MAX_MEAN: int
MAX_SYMBOL: int
MAX_SLICE_EXTENT: int
LATENT_BITS: int

def isas() -> tuple[str, ...]: ...
def default_isa() -> str: ...

class Layer:
    @property
    def kind(self) -> LayerKind: ...
    @property
    def output(self) -> Output: ...
    @property
    def lo(self) -> int: ...
    @property
    def hi(self) -> int: ...
    @property
    def worst_sum(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def upsample(self) -> int: ...
    @property
    def margin(self) -> int: ...
    def __init__(
        self,
        kind: str,
        weight: ArrayLike,
        bias: ArrayLike,
        mult_pos: ArrayLike,
        mult_neg: ArrayLike,
        shift: ArrayLike,
        lo: int = -32767,
        hi: int = 32767,
        output: str = "int16",
    ) -> None: ...

def split_layer(
    channels: int,
    kind: str,
    weight: ArrayLike,
    bias: ArrayLike,
    mult_pos: ArrayLike,
    mult_neg: ArrayLike,
    shift: ArrayLike,
    lo: int,
    hi: int,
    output: str,
) -> tuple[Layer, Layer]: ...
def run(layer: Layer, x: NDArray[np.int16], threads: int = 1, isa: str | None = None) -> NDArray[np.signedinteger]: ...

class SliceModel:
    @property
    def M(self) -> int: ...
    @property
    def N(self) -> int: ...
    @property
    def upsample(self) -> int: ...
    @property
    def bytes_per_latent(self) -> int: ...
    def __init__(
        self,
        hyper: Iterable[Layer],
        M: int,
        thresholds: ArrayLike,
        fraction_bits: int,
        context: Layer | None = None,
        parameters: Iterable[Layer] = (),
    ) -> None: ...
    def encode(
        self, y: NDArray[np.int32], z_hat: NDArray[np.int16], threads: int = 1, isa: str | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.uint16], NDArray[np.int32]]: ...
    def decode(
        self, decoder: Decoder, tables: Tables, z_hat: NDArray[np.int16], threads: int = 1, isa: str | None = None
    ) -> NDArray[np.int32]: ...

def quantize(v: NDArray[np.int32], means: NDArray[np.int32], fraction_bits: int) -> NDArray[np.int32]: ...
