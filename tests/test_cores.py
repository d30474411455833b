"""What a machine has to compute with."""

from __future__ import annotations

import os

import pytest
import torch

from lcodec import cores
from lcodec.errors import DeviceError
from lcodec.transforms import choose_device


@pytest.mark.skipif(os.name == "nt", reason="there torch is always asked")
@pytest.mark.parametrize("trace", [None, *cores._GPU_TRACES])
def test_torch_is_asked_for_a_gpu_where_a_driver_left_a_trace(trace, monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda path: path == trace)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cores.may_have_cuda() == (trace is not None)
    assert choose_device("auto") == ("cpu" if trace is None else "cuda")


def test_device_is_the_cpu_where_the_driver_has_no_gpu(monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"


def test_only_devices_that_are_told_of_are_taken():
    assert choose_device("cpu:0") == "cpu"
    for name in ("meta", "xpu", "vulkan", "none-such", None):
        with pytest.raises(DeviceError, match="unknown device"):
            choose_device(name)  # type: ignore[arg-type]
