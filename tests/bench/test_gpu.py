"""The GPU commands without a GPU: their order, their use of figures, and what is lowered for CUDA."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax
from jax._src.cudnn import fused_attention_stablehlo

from bench.device import attention, gpu, gpu_goals, trace
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.layers import Attention, attend
from its_jax.models.state_dict import abstract_arrays
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.pipeline.prompts import precompute_unet
from tests.helpers import bench_command
from tests.helpers.torch_twins import read


def benchmark(b, seconds):
    whole = {"sample_seconds": seconds, "samples_per_second": 1 / seconds, "gflops": 1, "of_matrix_product": 0.6 / b}
    return {"batches": [{"batch_size": b, "peak_memory_mb": 100 * b, "stages": {"all": whole}}]}


def ratio(**forms):
    return {"results": {"a part": {"ratio": {form: {"median": value} for form, value in forms.items()}}}}


@pytest.fixture
def figures():
    """Figures in which the best batch size is 2, and 8 does not fit in memory."""
    program = {"fused_attentions": 32, "host_operations": 0}
    attentions = {
        "bfloat16": {"form": "cudnn", "agrees": True},
        "float16": {"form": "cudnn", "agrees": False},
        "another": {"form": "attend", "agrees": True},
    }
    return {
        **{f"benchmark, batch {b}": benchmark(b, seconds) for b, seconds in ((1, 2), (2, 1), (4, 3))},
        "benchmark, batch 8": {"batches": [{"batch_size": 8, "fault": "memory"}]},
        "attention": {"attentions": attentions, "fault": "exit status 2"},
        "peer, batch 1": ratio(eager=0.5, compiled=0.8, graphs=1.25),
        "peer, batch 2": ratio(compiled=0.1) | {"fault": "exit status 2: the results differ"},
        "peer, batch 4": ratio(eager=0.5),
        "authors, batch 1": ratio(eager=0.4),
        "authors, batch 2": ratio(eager=0.2),
        "trace, batch 1": {"program": program, "steps": 20, "transfers": 50},
        "trace, batch 2": {"program": program, "steps": 20, "transfers": 0},
    }


def test_goals_are_met_or_missed(figures):
    found = {goal.name: goal.found for goal in gpu_goals.goals(figures)}
    assert found == pytest.approx(
        {
            "x the authors' loop, a sample at batch 1": 2.5,
            "x the authors' loop, a sample at batch 2": 5,
            "x compiled PyTorch, batch 1": 0.8,
            "of the matrix product, batch 2": 0.3,
            "fused attentions in the program": 32,
            "of cuDNN's attentions agree": 0.5,
            "of programs, without host operations in their text": 1,
            "of traced loops, without host copies (up to 2.5 a step)": 0.5,
        }
    )
    _, *lines = gpu_goals.table(gpu_goals.goals(figures))
    assert [line.split()[-1] for line in lines] == ["met", "38%", "30%", "40%", "met", "50%", "met", "50%"]


def test_larger_batches_are_skipped_once_memory_is_exhausted(figures, tmp_path):
    names = [name for name, _ in gpu.measurements(gpu.FULL_SIZE, tmp_path, figures)]
    assert "benchmark, batch 8" in names and "benchmark, batch 16" not in names and "peer, batch 8" in names


def test_missing_measurements_are_reported():
    _, *lines = gpu_goals.table(gpu_goals.goals({}))
    assert len(lines) == 8 and all(line.endswith("not measured") for line in lines)


class FakeProcesses:
    """Writes the file that each command names in place of running it; those of `failing` modules fail."""

    def __init__(self):
        self.modules, self.failing = [], {"bench.device.trace"}

    def run(self, module, *arguments, environment):
        self.modules.append(module)
        file = re.fullmatch("--out=(.*)", arguments[-1])[1]
        content = {}
        if module == "its_jax.benchmark":
            b = int(re.search(r"--batches=(\d+)", " ".join(arguments))[1])
            content = benchmark(b, 3 - b)
        with open(file, "w") as stream:
            json.dump(content, stream)
        return "exit status 1: why" if module in self.failing else ""


def test_finished_measurements_are_kept_and_failed_ones_repeated(tmp_path):
    out, processes = tmp_path / "gpu.json", FakeProcesses()

    def measure(setting=gpu.DRY, device="1 x cpu"):
        return gpu.measure(setting, tmp_path, out, device, processes.run)

    figures = measure()
    names = ["attention", "benchmark, batch 1", "peer, batch 1", "benchmark, batch 2"]
    names += [f"{what}, batch {b}" for b in (1, 2) for what in ("authors", "trace")]
    assert list(figures) == names and json.loads(out.read_text())["pieces"] == figures
    assert figures["trace, batch 2"] == {"fault": "exit status 1: why"}
    processes.modules.clear()
    processes.failing.clear()
    figures = measure()
    assert processes.modules == ["bench.device.trace"] * 2 and "fault" not in figures["trace, batch 2"]
    with pytest.raises(UserError, match="device 1 x cpu, not 2 x cpu"):
        measure(device="2 x cpu")
    with pytest.raises(UserError, match="steps 2"):
        measure(gpu.DRY._replace(steps=3))
    assert processes.modules == ["bench.device.trace"] * 2


def test_models_that_cannot_be_written_are_an_error(tmp_path):
    def fail(*_, environment):
        return "exit status 1: no room"

    with pytest.raises(UserError, match="random_models: exit status 1: no room"):
        gpu.measure(gpu.FULL_SIZE, tmp_path, tmp_path / "gpu.json", "1 x gpu", fail)


def test_the_last_line_of_a_failed_command_is_its_reason(capfd):
    fault = gpu.run_module("json.tool", "--nonsense")
    assert fault.startswith("exit status 2: ") and fault.endswith("--nonsense")
    assert "usage" in capfd.readouterr().err


def test_a_dry_run_does_not_overwrite_the_figures_of_a_gpu(tmp_path, capsys):
    assert bench_command.run("bench.device.gpu", f"--scratch={tmp_path}", "--dry", f"--out={gpu.OUT}") == 2
    assert "choose another file for --dry" in capsys.readouterr().err


@pytest.mark.parametrize("factor, agrees", [(1, True), (1.02, False), (float("nan"), False)])
def test_a_wrong_attention_does_not_agree(factor, agrees):
    def form(q, k, v):
        return attend(q, k, v) * factor

    found = attention.compare("bfloat16", sizes=((8, 16),), find_form=lambda *_: form)
    assert [figures["agrees"] for _, figures in found] == [agrees] * 2


@pytest.mark.parametrize(
    "name, kind",
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolution"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNN", "matrix product"),
        ("gemm_fusion_dot_12", "matrix product"),
        ("loop_transpose_fusion", "copy"),
        ("loop_convert_fusion_3", trace.REST),
    ],
)
def test_kernels_are_sorted_by_kind(name, kind):
    assert trace.find_kind(name) == kind


def test_a_profile_is_summarized():
    """It has two kernels with a pause, one transfer while they ran, one before, and another program's kernel."""
    kernels = [
        trace.Kernel("MemcpyH2D", 0, 5, ""),
        trace.Kernel("nvjet_1 dot.3", 10, 60, "jit_denoise"),
        trace.Kernel("MemcpyD2H", 75, 1, ""),
        trace.Kernel("loop_add_fusion add.1", 90, 20, "jit_denoise"),
        trace.Kernel("nvjet_1", 200, 50, "jit_decode"),
    ]
    summary = trace.summarize(kernels, "denoise")
    assert summary["shares"] == {"matrix product": 0.75, trace.REST: 0.25} and summary["busy"] == 0.8
    assert summary["transfers"] == 1 and summary["kernels"] == 2
    assert summary["longest"] == {"nvjet_1": 0.75, "loop_add_fusion": 0.25}
    with pytest.raises(UserError, match="nothing of the program"):
        trace.summarize(kernels, "vocode")


def test_a_real_profile_is_read(tmp_path):
    """On a CPU it has operations of the compiled program, without the loop that contains them."""

    @jax.jit
    def loop(x):
        return lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ x), x)

    x = jnp.ones((256, 256))
    loop(x).block_until_ready()
    with jax.profiler.trace(tmp_path):
        loop(x).block_until_ready()
    (file,) = tmp_path.rglob("*.xplane.pb")
    kernels = list(trace.read_kernels(jax.profiler.ProfileData.from_file(str(file))))
    assert kernels and not any(kernel.name.startswith("while") for kernel in kernels)
    assert trace.summarize(kernels, "loop")["busy"] > 0


def test_the_text_of_a_program_is_described():
    text = """
    %a = bf16[2] custom-call(%x), custom_call_target="__cudnn$fmhaSoftmax"
    %b = (bf16[2]) custom-call(%x, %k), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv"
    %c = token[] outfeed(%b, %t)
    """
    found = trace.describe_program(text)
    assert found == {"fused_attentions": 1, "convolutions_by_layout": {"b01f": 1}, "host_operations": 1}


def test_the_loop_for_cuda_has_fused_attention_and_no_host_operations(monkeypatch):
    """It is lowered from shapes alone, in bfloat16, for two models, with a fake answer about the GPU's cuDNN."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    change = {"block_out_channels": [32, 64], "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 8}
    change |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    change |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    unet = abstract_arrays(
        UNet2DConditionModel,
        UNetConfig.from_dict(read("configs", "sd15.unet") | change),
        dtype=jnp.bfloat16,
        param_dtype=jnp.bfloat16,
    )
    backends.specialize(unet, SimpleNamespace(platform="gpu", compute_capability="9.0"), prepare=True)
    attentions = sum(isinstance(layer, Attention) for _, layer in nnx.iter_graph(unet))
    prepared = jax.eval_shape(lambda unet: precompute_unet(unet, 1000), unet)
    texts = jax.eval_shape(lambda unet, text: unet.project_text(text), unet, shape(2, 77, 768))
    texts = jax.tree.map(lambda a: shape(1, *a.shape, dtype=a.dtype), texts)
    terms = [denoise.Term(texts, shape(1), shape(1, 1000))] * 2
    schedule = NoiseSchedule.from_dict(read("configs", "sd15.scheduler"))
    rows = solver_table(schedule, 100, "ddim")
    latents, number = shape(1, 32, 128, 4), shape(dtype=jnp.int32)
    state = denoise.State(latents, latents, shape(1, dtype=jnp.int32))
    inputs = ([prepared] * 2, terms, rows, shape(2, 1000, dtype=jnp.bool_), state, number, number)
    text = denoise.denoise.trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == text.count("x[o, 0, 1, i]->") > 20 and "xbf16>" in text
    assert attentions == 8 and text.count("__cudnn$fmhaSoftmax") == 2 * attentions
    assert not re.search("callback|infeed|outfeed|stablehlo.send|stablehlo.recv", text)


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)
