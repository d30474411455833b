"""A short run of the fuzzer, and every prefix and byte of one small file."""

from __future__ import annotations

import numpy as np
import pytest

from lcodec import container
from lcodec.codec import Codec
from lcodec.decoder import decode_latents
from lcodec.errors import StreamError

from .fuzz import fuzz_decode


def test_damaged_files_end_in_named_errors(tmp_path):
    assert fuzz_decode.fuzz(fuzz_decode.seeds(tmp_path), seconds=5, first=1000) > 100


@pytest.fixture(scope="module")
def small(model_file, photo):
    codec = Codec(model_file, "cpu", 1)
    return codec, codec.encode(photo[:40, :50], 1.0).data


def test_every_prefix_is_rejected(small):
    codec, data = small
    for size in range(len(data)):
        with pytest.raises(StreamError):
            container.unpack(data[:size])


def test_every_changed_byte_is_rejected(small):
    codec, data = small
    for place in range(len(data)):
        for value in (1, 0x80, 0xFF):
            bad = bytearray(data)
            bad[place] ^= value
            with pytest.raises(StreamError):
                container.unpack(bytes(bad))


def test_payload_that_fits_its_checksum_but_not_the_coder_is_rejected(small):
    """The coder's final state is a checksum of its own: 31 bits a lane."""
    codec, data = small
    box = container.unpack(data)
    payload = bytes(box.slices[0])
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(payload))[:60]:
        bad = bytearray(payload)
        bad[place] ^= 0x10
        with pytest.raises(StreamError):
            decode_latents(container.Container(box.header, [bytes(bad)]), codec.file, codec.entropy)
