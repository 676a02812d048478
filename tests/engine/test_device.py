"""Devices and precision: told apart by plain numbers, so that a machine without a GPU holds the rules too."""

import pytest
import torch

from medtune.engine.device import Gpu, gpu_dtype, pick_device, pick_dtype, refuse_mixed, visible_gpus
from medtune.params.errors import EngineError

H100 = "NVIDIA H100 80GB HBM3"
T4 = "Tesla T4"


def test_a_gpu_without_bf16_computes_in_float16_and_says_so():
    turing, ampere = Gpu(0, T4, (7, 5)), Gpu(0, "NVIDIA A10G", (8, 6))
    assert gpu_dtype("auto", turing) == "float16"
    assert gpu_dtype("auto", ampere) == "bfloat16"
    assert gpu_dtype("float32", turing) == "float32"
    with pytest.raises(EngineError, match=r"bfloat16, but Tesla T4 has none; set train.dtype: auto or float16"):
        gpu_dtype("bfloat16", turing)


def test_gpus_of_different_kinds_are_refused_with_their_names():
    gpus = [Gpu(0, T4, (7, 5)), Gpu(1, H100, (9, 0)), Gpu(2, H100, (9, 0))]
    with pytest.raises(EngineError, match=r"0: Tesla T4 \(7\.5\), 1: NVIDIA H100.*CUDA_VISIBLE_DEVICES=1,2$"):
        refuse_mixed(gpus)
    # numbers of the variable, not of the process
    with pytest.raises(EngineError, match=r"CUDA_VISIBLE_DEVICES=6,3$"):
        refuse_mixed(gpus, "0, 6,3")
    refuse_mixed(gpus[1:])
    refuse_mixed(gpus[:1])
    refuse_mixed([])


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_a_machine_without_a_gpu():
    assert visible_gpus() == []
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(EngineError, match="shows no CUDA device"):
        pick_device("cuda")
    with pytest.raises(EngineError, match="float16 does not train on a CPU"):
        pick_dtype("float16", torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_that_is_there():
    gpu = visible_gpus()[0]
    assert gpu.has_bf16 == torch.cuda.is_bf16_supported(including_emulation=False)
    assert pick_device("auto") == torch.device("cuda", 0)
