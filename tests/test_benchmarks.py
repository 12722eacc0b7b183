"""What benchmarks compute themselves: operations of a step, and which model is the better one."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from artifixer.runtime.errors import InputError, Stopped
from artifixer.video.attention import attend
from artifixer.video.memory_estimate import parameter_count, vae_parameter_count

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.mark.parametrize(("backend", "backwards"), [("plain", 2.0), ("sdpa", 2.5)])
def test_attention_on_a_cpu_counts_by_its_products(backend, backwards, monkeypatch):
    """Two products forwards, four backwards; fused kernels compute the first again."""
    training = benchmark("training", monkeypatch)
    q, k, v = (torch.randn(1, tokens, 4, 16, requires_grad=True) for tokens in (24, 40, 40))
    forwards = 2 * (2 * 24 * 40 * 16 * 4)
    with FlopCounterMode(display=False, custom_mapping=training.CPU_OPERATIONS) as counter:
        out = attend(q, k, v, backend=backend)
        assert counter.get_total_flops() == forwards
        out.sum().backward()
    assert counter.get_total_flops() == (1 + backwards) * forwards


def test_products_that_are_not_counted_are_named(monkeypatch):
    """Convolutions as Wan's autoencoder asks for them on a CPU."""
    training = benchmark("training", monkeypatch)
    video, weights = torch.randn(1, 4, 5, 8, 8), torch.randn(6, 4, 3, 3, 3)

    def operations() -> tuple[int, set[str]]:
        counter = FlopCounterMode(display=False, custom_mapping=training.CPU_OPERATIONS)
        with torch.no_grad(), counter, training.OverlookedProducts() as overlooked:
            torch.mkldnn_convolution(video, weights, None, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
        return counter.get_total_flops(), overlooked.names

    assert operations() == (2 * 6 * 3 * 6 * 6 * 4 * 27, set())
    monkeypatch.delitem(training.CPU_OPERATIONS, torch.ops.aten.mkldnn_convolution)
    assert operations() == (0, {"aten.mkldnn_convolution"})


def test_rounds_leave_out_the_first(monkeypatch):
    training = benchmark("training", monkeypatch)
    assert training.rounds_of([1.0, 5.0, 6.0, 8.0, 10.0, 13.0], 2) == (3.0, 5.0)


def test_minutes_are_split_over_the_stages_that_run(monkeypatch):
    script = benchmark("embedded_model", monkeypatch)
    for stages in (script.STAGES, script.STAGES[:3]):
        minutes = script.split_minutes(25.0, stages, script.SHARES["tiny"])
        assert tuple(minutes) == tuple(stages) and sum(minutes.values()) == pytest.approx(25)
    assert minutes["bidirectional"] == pytest.approx(17 / 6 * minutes["autoencoder"])


def test_a_model_is_better_only_with_all_figures(monkeypatch):
    not_better = benchmark("embedded_model", monkeypatch).not_better
    old = {"psnr_mean": 22.0, "psnr_pooled": 20.0, "psnr_hard": 18.0, "psnr_opaque": 22.5}
    new = {"psnr_mean": 22.5, "psnr_pooled": 20.1, "psnr_hard": 18.2, "psnr_opaque": 22.5}
    assert not_better(new, old) == []
    assert not_better(old, old) == ["psnr_mean +0.000", "psnr_pooled +0.000", "psnr_hard +0.000"]
    assert not_better({**new, "psnr_opaque": 22.25}, old) == ["psnr_opaque -0.250"]


def test_the_larger_model_may_be_embedded(monkeypatch):
    script = benchmark("embedded_model", monkeypatch)
    config = script.RECIPES["small"].model
    assert (
        2 * (parameter_count(config.transformer) + vae_parameter_count(config.vae))
        < 0.95 * script.LARGEST_MODEL
    )


def test_stages_that_give_no_causal_model_are_refused(monkeypatch, tmp_path, capsys):
    script = benchmark("embedded_model", monkeypatch)
    assert script.main(["--out", str(tmp_path), "--stages", "autoencoder,bidirectional"]) == 2
    assert "for a causal model" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"--stages teacher: expected some of"):
        script._stages("teacher")
    with pytest.raises(InputError, match="expected bidirectional too, the teacher of self_forcing"):
        script._stages("autoencoder,self_forcing")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (InputError("--out: missing"), 2, "error: --out: missing\n"),
        (Stopped("run: stopped"), 75, "run: stopped\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_benchmarks_end_with_the_exit_codes_of_the_program(
    error, code, said, monkeypatch, capsys
) -> None:
    def job() -> None:
        if error is not None:
            raise error

    assert benchmark("exit_codes", monkeypatch).exit_code_of(job) == code
    assert capsys.readouterr().err == said


def test_a_bug_in_a_benchmark_is_not_hidden(monkeypatch) -> None:
    with pytest.raises(ZeroDivisionError):
        benchmark("exit_codes", monkeypatch).exit_code_of(lambda: 1 / 0)


def test_speed_of_training_is_measured_on_made_pairs(monkeypatch) -> None:
    """The pairs lacked the kind of their camera scale, and the benchmark ended with a traceback."""
    pairs = benchmark("synthetic_pairs", monkeypatch).MadePairs((32, 16), 5, 2, "median_depth")
    pair = pairs.pair(5)
    assert (pair.camera_scale_kind, pair.frames, pair.views) == ("median_depth", 5, 2)
