"""What can be known of a GPU without one: the command's way, what it makes of figures, and what is lowered for it."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax
from jax._src.cudnn import fused_attention_stablehlo

from bench import attention, gpu, trace
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.layers import Attention, attend
from its_jax.models.state_dict import abstract_arrays
from its_jax.models.unet import UNet2DConditionModel, UNetConfig
from its_jax.pipeline.prompts import precompute_unet
from tests.helpers.torch_twins import read


def benchmark(b, seconds):
    whole = {"sample_seconds": seconds, "samples_per_second": 1 / seconds, "gflops": 1, "of_matrix_product": 0.6 / b}
    return {"batches": [{"batch_size": b, "peak_memory_mb": 100 * b, "stages": {"all": whole}}]}


def ratio(**forms):
    return {"results": {"a part": {"ratio": {form: {"median": value} for form, value in forms.items()}}}}


@pytest.fixture
def figures():
    """The best batch is 2; one of 8 is beyond the memory."""
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
    found = {goal.name: goal.found for goal in gpu.goals(figures)}
    assert found == pytest.approx(
        {
            "x the authors' loop, a sample at batch 1": 2.5,
            "x the authors' loop, a sample at batch 2": 5,
            "x compiled PyTorch, batch 1": 0.8,
            "of the matrix product, batch 2": 0.3,
            "fused attentions in the program": 32,
            "of cuDNN's attentions, right": 0.5,
            "of programs, without host operations in their text": 1,
            "of traced loops, without host copies (up to 2.5 a step)": 0.5,
        }
    )
    _, *lines = gpu.table(gpu.goals(figures))
    assert [line.split()[-1] for line in lines] == ["met", "38%", "30%", "40%", "met", "50%", "met", "50%"]


def test_batches_are_told_with_their_memory(figures):
    _, one, two, _, eight = gpu.memory_table(figures)
    assert one.split() == ["1", "2", "0.5", "1", "60%", "100"] and two.split()[-1] == "200"
    assert eight.split() == ["8", "memory"]


def test_beyond_the_memory_nothing_is_tried(figures, tmp_path):
    tried = [name for name, _ in gpu.pieces(gpu.setting(tmp_path, dry=False), figures)]
    assert "benchmark, batch 8" in tried and "benchmark, batch 16" not in tried and "peer, batch 8" in tried


def test_what_was_not_measured_is_said():
    _, *lines = gpu.table(gpu.goals({}))
    assert len(lines) == 8 and all(line.endswith("not measured") for line in lines)


def test_pieces_are_kept_and_those_that_failed_made_again(tmp_path, monkeypatch):
    """Each piece's process is played here: it writes the file that its command names; one fails."""
    setting, out, ran = gpu.setting(tmp_path, dry=True), tmp_path / "new" / "gpu.json", []
    failing = {"bench.trace"}

    def run(command, environment):
        ran.append(command[0])
        file = re.fullmatch("--out=(.*)", command[-1])[1]
        content = {}
        if command[0] == "its_jax.benchmark":
            b = int(re.search(r"--batches=(\d+)", " ".join(command))[1])
            content = benchmark(b, 3 - b)
        with open(file, "w") as stream:
            json.dump(content, stream)
        return "exit status 1: why" if command[0] in failing else ""

    monkeypatch.setattr(gpu, "_run", run)
    out.parent.mkdir()
    figures = gpu.measure(setting, tmp_path, out, "1 x cpu")
    names = ["attention", "benchmark, batch 1", "peer, batch 1", "benchmark, batch 2"]
    names += [f"{what}, batch {b}" for b in (1, 2) for what in ("authors", "trace")]
    assert list(figures) == names and json.loads(out.read_text())["pieces"] == figures
    assert figures["trace, batch 2"] == {"fault": "exit status 1: why"}
    ran.clear()
    failing.clear()
    figures = gpu.measure(setting, tmp_path, out, "1 x cpu")
    assert ran == ["bench.trace"] * 2 and "fault" not in figures["trace, batch 2"]
    for change, device, words in (({}, "2 x cpu", "device 1 x cpu, not 2 x cpu"), ({"steps": 3}, "1 x cpu", "steps 2")):
        with pytest.raises(UserError, match=words):
            gpu.measure(setting._replace(**change), tmp_path, out, device)
    assert ran == ["bench.trace"] * 2


def test_models_that_could_not_be_made_end_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_run", lambda *_: "exit status 1: no room")
    with pytest.raises(UserError, match="full_size: exit status 1: no room"):
        gpu.measure(gpu.setting(tmp_path, dry=False), tmp_path, tmp_path / "gpu.json", "1 x gpu")


def test_why_a_command_failed_is_kept(capfd):
    fault = gpu._run(["json.tool", "--nonsense"], None)
    assert fault.startswith("exit status 2: ") and fault.endswith("--nonsense")
    assert "usage" in capfd.readouterr().err


def test_figures_of_a_dry_run_are_kept_apart(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", f"--scratch={tmp_path}", "--dry", f"--out={gpu.OUT}"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "not of --dry" in capsys.readouterr().err


@pytest.mark.parametrize("factor, agrees", [(1, True), (1.02, False), (float("nan"), False)])
def test_a_wrong_attention_is_seen(monkeypatch, factor, agrees):
    monkeypatch.setattr(attention, "SIZES", ((8, 16),))
    monkeypatch.setattr(attention.forms, "attention", lambda *_: lambda q, k, v: attend(q, k, v) * factor)
    assert [of["agrees"] for _, of in attention.compared("bfloat16")] == [agrees] * 2


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
def test_kernels_have_kinds(name, kind):
    assert trace.kind(name) == kind


def test_a_profile_is_summed():
    """Two kernels with a pause between, one transfer while they ran, one before, and another program's kernel."""
    kernels = [
        trace.Kernel("MemcpyH2D", 0, 5, ""),
        trace.Kernel("nvjet_1 dot.3", 10, 60, "jit_denoise"),
        trace.Kernel("MemcpyD2H", 75, 1, ""),
        trace.Kernel("loop_add_fusion add.1", 90, 20, "jit_denoise"),
        trace.Kernel("nvjet_1", 200, 50, "jit_decode"),
    ]
    summary = trace.summed(kernels, "denoise")
    assert summary["shares"] == {"matrix product": 0.75, trace.REST: 0.25} and summary["busy"] == 0.8
    assert summary["transfers"] == 1 and summary["kernels"] == 2
    assert summary["longest"] == {"nvjet_1": 0.75, "loop_add_fusion": 0.25}
    with pytest.raises(UserError, match="nothing of the program"):
        trace.summed(kernels, "vocode")


def test_a_real_profile_is_read(tmp_path):
    """Of a CPU: operations of the compiled program, without the loop that contains them."""

    @jax.jit
    def loop(x):
        return lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ x), x)

    x = jnp.ones((256, 256))
    loop(x).block_until_ready()
    with jax.profiler.trace(tmp_path):
        loop(x).block_until_ready()
    (file,) = tmp_path.rglob("*.xplane.pb")
    kernels = list(trace.kernels(jax.profiler.ProfileData.from_file(str(file))))
    assert kernels and not any(kernel.name.startswith("while") for kernel in kernels)
    assert trace.summed(kernels, "loop")["busy"] > 0


def test_a_program_tells_of_itself():
    text = """
    %a = bf16[2] custom-call(%x), custom_call_target="__cudnn$fmhaSoftmax"
    %b = (bf16[2]) custom-call(%x, %k), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv"
    %c = token[] outfeed(%b, %t)
    """
    found = trace.of_program(text)
    assert found == {"fused_attentions": 1, "convolutions_by_layout": {"b01f": 1}, "host_operations": 1}


def test_the_loop_is_lowered_for_cuda_with_fused_attention_and_without_talk_with_the_host(monkeypatch):
    """From shapes alone, in bfloat16, two models. What JAX asks of a GPU is answered for it."""
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
