"""Models on disk in all formats, by name, in memory once; and what they need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifixer.runtime.errors import InputError
from artifixer.video import model_files, model_zoo
from artifixer.video.checkpoints import files as checkpoint_files
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.checkpoints.release_names import release_name
from artifixer.video.checkpoints.tensor_files import StoredTensors
from artifixer.video.config_json import flat_config, read_config
from artifixer.video.memory_estimate import (
    parameter_count,
)
from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_files import convert_model, load_model, locate_model
from artifixer.video.model_zoo import NAMED_MODELS, models_folder
from artifixer.video.text import EncodedPrompt, TextEncoder
from artifixer.video.transformer import VideoTransformer
from tests.video.made_models import SMALL, WAN_LIKE, made_model

#: Parameters of the released checkpoints, known from outside.
RELEASED_PARAMETERS = {"1.3b": 1_678_749_760, "14b": 16_910_955_584}

#: float32 against diffusers' own network.
DIFFUSERS_TOLERANCE = 1e-4


def tensors(model: Model) -> dict[str, torch.Tensor]:
    return {
        **model.transformer.state_dict(),
        **{f"vae.{name}": value for name, value in model.vae.network.state_dict().items()},
    }


def assert_same(left: Model, right: Model, dtype: torch.dtype | None = None) -> None:
    ours, theirs = tensors(left), tensors(right)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name] if dtype is None else theirs[name].to(dtype)), (
            name
        )


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "remove"}))


def write_vae(folder: Path, model: Model) -> None:
    """Wan's autoencoder as diffusers saves it."""
    model.vae.network.save_pretrained(folder / "vae")


def release_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32, width: int = 256
) -> tuple[Path, Model]:
    """A model with two Wan heads in the release's format."""
    transformer = replace(WAN_LIKE.transformer, width=width, heads=2, text_tokens=512)
    model = made_model(replace(WAN_LIKE, transformer=transformer))
    torch.save(
        {
            release_name(name): value.to(dtype)
            for name, value in model.transformer.state_dict().items()
        },
        folder / "release.pt",
    )
    write_vae(folder, model)
    return folder / "release.pt", model


# --------------------------------------------------------------------------------------------------
# our format


@pytest.mark.parametrize("config", [SMALL, WAN_LIKE], ids=["small", "wan-like"])
def test_a_saved_model_comes_back(tmp_path: Path, config: ModelConfig) -> None:
    model = made_model(config)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert loaded.config == config
    assert_same(loaded, model)
    assert not any(parameter.requires_grad for parameter in loaded.transformer.parameters())
    assert all(
        not isinstance(value, dict)
        for value in json.loads((tmp_path / "config.json").read_text()).values()
    )


@pytest.mark.parametrize("value", [True, False])
def test_a_model_saved_by_a_version_with_lent_detail_loads_as_one_without(
    tmp_path: Path, value: bool
) -> None:
    model = made_model()
    save_model(tmp_path, model)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"detail": value}))
    assert load_model(tmp_path).config == model.config
    path.write_text(json.dumps(json.loads(path.read_text()) | {"details": value}))
    with pytest.raises(InputError, match='unknown "details"'):
        load_model(tmp_path)


def test_large_models_are_cut_into_files(tmp_path: Path) -> None:
    model = made_model()
    save_model(tmp_path, model, part_bytes=80_000)
    files = sorted(path.name for path in tmp_path.glob("transformer*"))
    assert len(files) > 2 and files[0] == f"transformer-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 90_000 for path in tmp_path.glob("*.safetensors"))
    assert_same(load_model(tmp_path), model)
    (tmp_path / files[1]).unlink()
    with pytest.raises(
        InputError,
        match=rf"{len(files) - 1} files of transformer; expected {files[0]} to {files[-1]}",
    ):
        load_model(tmp_path)


def test_half_precision_on_disk_is_computed_in_float32_on_a_cpu(tmp_path: Path) -> None:
    model = made_model()
    save_model(tmp_path, model, torch.float16)
    loaded = load_model(tmp_path)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.transformer.head.weight, model.transformer.head.weight.half().float())


@pytest.mark.parametrize("name", ["1.3b", "14b"])
def test_flat_configurations_come_back(tmp_path: Path, name: str) -> None:
    config = NAMED_MODELS[name].config
    assert config is not None
    (tmp_path / "config.json").write_text(json.dumps(flat_config(config)))
    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a model"),
        ({"version": 9}, "version 9; this program reads version 1"),
        ({"steps": "four"}, "\"steps\" is 'four'; expected int"),
        ({"keep_residual": 1}, "\"keep_residual\" is '1'; expected bool"),
        ({"camera_scale": "miles"}, "expected metric or median_depth"),
        ({"vae_latents_mean": [0, "a"]}, '"vae_latents_mean" is .*; expected a list'),
        ({"vae_kind": "huge"}, "\"vae_kind\" is 'huge'; expected one of wan, small"),
        ({"transformer_width": "remove"}, 'lacks "transformer_width"'),
        ({"colour": 3}, 'unknown "colour"'),
        (
            {"transformer_latent_channels": 5},
            "latent channels of the transformer is 5, of the autoencoder 6",
        ),
        ({"generate_steps": 0}, "0 steps"),
        ({"sink_frames": 6}, "6 sink frames leave no place for a block"),
    ],
)
def test_wrong_configurations_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(flat_config(SMALL)))
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(InputError, match=rf"config\.json: .*{message}"):
        locate_model(tmp_path)


def test_a_configuration_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, made_model())
    edit(tmp_path / "config.json", transformer_ffn_width=32)
    with pytest.raises(
        InputError,
        match=r"transformer\.safetensors: .* do not fit .*: 6 of another shape: "
        r"layers\.0\.feed_forward",
    ):
        load_model(tmp_path)


def test_modes_differ_in_source_and_steps_alone() -> None:
    direct = replace(SMALL, source="direct", steps=1, generate_steps=3)
    assert direct.in_mode("improve") == direct
    assert direct.in_mode("generate") == replace(direct, source="mixing", steps=3)
    assert [direct.steps_in(mode) for mode in ("improve", "generate")] == [1, 3]
    assert [
        replace(direct, adapts_steps=True).steps_in(mode) for mode in ("improve", "generate")
    ] == [1, "adaptive"]
    released = NAMED_MODELS["1.3b"].config
    assert released is not None and released.in_mode("generate") == released


def test_large_weights_are_known_by_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "PIECE_BYTES", 16)
    path = tmp_path / "weights.safetensors"
    content = bytearray(range(256)) * 100
    path.write_bytes(content)
    before = checkpoint_files.weights_key(path)
    assert checkpoint_files.weights_key(path) == before
    content[-1] ^= 1
    path.write_bytes(content)
    assert checkpoint_files.weights_key(path) != before


# --------------------------------------------------------------------------------------------------
# other formats


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_release_checkpoint_loads_and_converts(tmp_path: Path, dtype: torch.dtype) -> None:
    path, model = release_checkpoint(tmp_path, dtype)
    loaded = load_model(path)
    assert loaded.config == replace(
        model.config, name="release", block_frames=7, window_frames=21, sink_frames=7, steps=4
    )
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], value.to(dtype).float()), name
    assert_same(load_model(tmp_path), loaded)  # by its folder
    convert_model(path, tmp_path / "ours")
    converted = load_model(tmp_path / "ours", dtype=torch.float32)
    assert converted.config == loaded.config
    assert_same(converted, loaded)
    with pytest.raises(InputError, match="is not empty"):
        convert_model(path, tmp_path / "ours")
    convert_model(path, tmp_path / "half", torch.bfloat16)
    assert_same(load_model(tmp_path / "half", dtype=torch.bfloat16), loaded, torch.bfloat16)


def test_a_model_becomes_a_checkpoint_of_the_release(tmp_path: Path) -> None:
    """From the release's format to ours and back: the same names, types and values."""
    path, _ = release_checkpoint(tmp_path)
    convert_model(path, tmp_path / "ours")
    convert_model(tmp_path / "ours", tmp_path / "back.pt")
    before, after = (torch.load(file, weights_only=True) for file in (path, tmp_path / "back.pt"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    convert_model(tmp_path / "ours", tmp_path / "half.pt", torch.bfloat16)
    assert {
        value.dtype for value in torch.load(tmp_path / "half.pt", weights_only=True).values()
    } == {torch.bfloat16}
    with pytest.raises(InputError, match=r"half\.pt: exists; expected a new file"):
        convert_model(tmp_path / "ours", tmp_path / "half.pt")
    save_model(tmp_path / "small", made_model())
    with pytest.raises(InputError, match="model small is not of the public release's architecture"):
        convert_model(tmp_path / "small", tmp_path / "small.pt")


def test_release_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, _ = release_checkpoint(tmp_path)
    stored = torch.load(path, weights_only=True)
    first = next(name for name in stored if "attn1" in name)
    torch.save(
        {name: value for name, value in stored.items() if name != first}
        | {"extra": torch.zeros(1)},
        path,
    )
    with pytest.raises(
        InputError,
        match=r"release\.pt: .*1 missing: layers\.0\.self_attention.*; 1 unexpected: extra",
    ):
        load_model(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"release\.pt: 1 tensors, but not those of a transformer"):
        load_model(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"release\.pt: truncated or damaged"):
        load_model(path)


def test_a_checkpoint_without_its_autoencoder_says_where_that_belongs(tmp_path: Path) -> None:
    path, _ = release_checkpoint(tmp_path)
    (tmp_path / "vae").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"has no vae/; expected Wan 2\.1's autoencoder"):
        load_model(path)


def test_wan_folders_load_with_added_layers_as_in_the_paper(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            text_dim=8,
            freq_dim=16,
            ffn_dim=64,
            num_layers=2,
            in_channels=16,
            out_channels=16,
        ).eval()
    theirs.save_pretrained(tmp_path / "transformer")
    write_vae(tmp_path, made_model(WAN_LIKE))
    ours = load_model(tmp_path)
    for layer in ours.transformer.layers:
        assert not layer.opacity_embedding.weight.any() and not layer.ray_embedding.weight.any()
        assert (
            not layer.cross_attention.reference_value.weight.any()
            and layer.cross_attention.reference_key.weight.any()
        )
    from tests.video.made_conditions import made_conditions

    random = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 3, 4, 6, generator=random)
    text = torch.randn(1, 512, 8, generator=random)
    with torch.no_grad():
        expected = theirs(latents, torch.tensor([500.0]), text).sample
        actual = ours.transformer(
            latents,
            torch.tensor([500.0]),
            replace(made_conditions(ours.config, 3, 48, 32, references=2), text=text),
        )
    torch.testing.assert_close(actual, expected, rtol=0, atol=DIFFUSERS_TOLERANCE)
    edit(tmp_path / "transformer" / "config.json", image_dim=1280)
    with pytest.raises(
        InputError,
        match=r"image_dim = 1280, expected None; only Wan 2\.1 text-to-video models are known",
    ):
        load_model(tmp_path)


def test_paths_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither a file or folder nor one of tiny, 1\.3b, 14b"):
        locate_model(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no model; expected config\.json"):
        locate_model(tmp_path)
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(InputError, match=r"expected a model folder, or a \.pt file"):
        locate_model(tmp_path / "a.safetensors")


# --------------------------------------------------------------------------------------------------
# named models


def test_missing_named_models_say_what_to_download_where_to_and_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_model("14b")
    for part in (
        "artifixer-14b.pt of nvidia/ArtiFixer",
        "67.6 GB",
        "licence",
        str(models_folder() / "14b"),
        "--model tiny works now",
    ):
        assert part in str(caught.value)


def test_a_named_model_is_found_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = models_folder() / "1.3b"
    folder.mkdir(parents=True)
    path, _ = release_checkpoint(folder)
    path.rename(folder / "artifixer-1.3b.pt")
    assert locate_model("1.3b").config == NAMED_MODELS["1.3b"].config
    # the file of another model
    with pytest.raises(InputError, match=r"artifixer-1\.3b\.pt: .*1008 missing"):
        load_model("1.3b")


def test_the_embedded_model_needs_only_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_zoo, "embedded_folder", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="this installation is incomplete"):
        load_model("tiny")
    model = made_model()
    save_model(tmp_path / "tiny", model, torch.float16, part_bytes=50_000)
    assert load_model("tiny").config == SMALL
    assert_same(load_model("tiny", dtype=torch.float16), model, torch.float16)


def test_released_models_take_the_sizes_of_the_release(parity_folder: Path) -> None:
    """Nearest multiples of 16, halves to the even one."""
    protocol = parity_folder / "protocol.json"
    if not protocol.is_file():
        pytest.skip(f"{protocol} is absent: it holds the release's sizes")
    config = NAMED_MODELS["14b"].config
    assert config is not None
    for size, (height, width) in json.loads(protocol.read_text())["resize16"].items():
        given_height, given_width = map(int, size.split("x"))
        assert config.model_size(given_width, given_height) == (width, height), size


def test_released_models_take_the_nearest_multiples_of_16() -> None:
    config = NAMED_MODELS["14b"].config
    assert config is not None
    for given, taken in ((1, 16), (23, 16), (24, 32), (25, 32), (40, 32), (41, 48), (1080, 1088)):
        assert config.model_size(given, 576) == (taken, 576), given
        assert config.model_size(576, given) == (576, taken), given


@pytest.mark.parametrize(("name", "count"), RELEASED_PARAMETERS.items())
def test_released_models_have_their_parameters(name: str, count: int) -> None:
    config = NAMED_MODELS[name].config
    assert config is not None
    assert parameter_count(config.transformer) == count
    with torch.device("meta"):
        names = {release_name(key) for key in VideoTransformer(config.transformer).state_dict()}
    assert len(names) == 15 + 36 * config.transformer.layers


def test_prompts_need_a_text_encoder() -> None:
    with pytest.raises(InputError, match=r"model small takes no text; models that do: 1\.3b, 14b"):
        made_model().encode_prompt("a house")
    with pytest.raises(
        InputError, match="model wan-like has no text encoder; expected text_encoder/"
    ):
        made_model(WAN_LIKE).encode_prompt("a house")
    assert not made_model().encode_prompt("  ").embedding.any()


class OneToken(TextEncoder):
    """A text encoder that knows nothing."""

    def __init__(self) -> None:
        """Without a folder."""

    def encode(self, prompt: str) -> EncodedPrompt:
        return EncodedPrompt(
            torch.ones(1, WAN_LIKE.text.tokens, WAN_LIKE.text.width),
            cut_tokens=len(prompt.split()) - 1,
        )

    def unload(self) -> None:
        pass


def test_prompts_are_encoded_in_the_models_own_type() -> None:
    model = replace(made_model(WAN_LIKE, dtype=torch.bfloat16), text_encoder=OneToken())
    encoded = model.encode_prompt("a red house")
    assert encoded.embedding.dtype == torch.bfloat16
    assert encoded.warning is not None and "last 2 tokens were cut" in encoded.warning


# --------------------------------------------------------------------------------------------------
# memory


def anonymous_bytes() -> int:
    """Memory of this process that is not a mapped file."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's account of memory"
)
def test_loading_holds_the_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = release_checkpoint(tmp_path, width=1024)
    size = sum(value.nbytes for value in model.transformer.state_dict().values())
    largest = max(value.nbytes for value in model.transformer.state_dict().values())
    assert size > 10 * largest / 2
    del model
    seen: list[int] = []
    opened = checkpoint_files.open_tensors

    def watched(path: Path) -> StoredTensors:
        stored = opened(path)
        return replace(
            stored, read=lambda name: (seen.append(anonymous_bytes()), stored.read(name))[1]
        )

    monkeypatch.setattr(checkpoint_files, "open_tensors", watched)
    monkeypatch.setattr(model_files, "open_tensors", watched)
    before = anonymous_bytes()
    loaded = load_model(path, dtype=torch.bfloat16)
    assert len(seen) > 50
    grown = max([*seen, anonymous_bytes()]) - before
    # the bfloat16 model, one float32 tensor, and the allocator's play
    assert grown < size / 2 + largest + 8e6
    assert loaded.transformer.head.weight.dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_models_load_onto_a_gpu(tmp_path: Path) -> None:
    model = made_model()
    save_model(tmp_path, model)
    loaded = load_model(tmp_path, "cuda")
    assert loaded.dtype == torch.bfloat16 and loaded.device.type == "cuda"
    assert torch.equal(
        loaded.transformer.head.weight.cpu(), model.transformer.head.weight.bfloat16()
    )
