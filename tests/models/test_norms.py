"""--norm builds the same networks with GroupNorm or none, and --init_gain with other gains."""

import functools
import math

import pytest
import torch
import torchvision
from scipy import integrate, stats
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from models import FAMILY_NORMS, build_model
from models.activation import create_activation
from models.init_gain import second_moment, unit_gain
from models.norms import TokenBatchNorm, conv_norm
from zilu.names import ACTIVATIONS, SIGMA_NAMES

FAMILIES = {
    "vgg": ("vgg11", {}),
    "resnet": ("resnet20", {}),
    "vit": ("vit-tiny", {}),
    "gpt2": (
        "gpt2",
        {"vocab_size": 50, "max_seq_length": 16, "embedding_dim": 24, "num_attention_heads": 2,
         "num_layers": 2, "dropout": 0},
    ),
}  # fmt: skip
NETWORKS = [*FAMILIES.values(), ("resnet50", {}), ("resnet18", {"stem": "imagenet"})]
WITH_NORMS = [(family, norm) for family, norms in FAMILY_NORMS.items() for norm in norms[1:]]
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
LAYERS = (nn.Conv2d, nn.Linear)


def build(name, norm, activation=nn.GELU, **options):
    torch.manual_seed(0)
    return build_model(name, activation, norm=norm, **options)


def inputs(name, batch=2, size=32):
    generator = torch.Generator().manual_seed(1)
    if name == "gpt2":
        return torch.randint(50, (batch, 16), generator=generator)
    return torch.randn(batch, 3, size, size, generator=generator)


@torch.no_grad()
def spread_out(model):
    """Move everything off a 0 or a 1 that could hide a mistake."""
    for value in model.parameters():
        if value.dim() == 1:
            value.add_(0.5 * torch.rand(value.shape))
    return model


def modules(model, kinds):
    return [module for module in model.modules() if isinstance(module, kinds)]


def assert_same(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


# --- norms ---


@pytest.mark.parametrize(("family", "norm"), WITH_NORMS)
def test_initial_weights_do_not_depend_on_the_norm(family, norm):
    name, options = FAMILIES[family]
    usual = build(name, "auto", **options)
    state = torch.get_rng_state()
    other = build(name, norm, **options)
    assert torch.equal(torch.get_rng_state(), state)
    layers = zip(modules(other, LAYERS), modules(usual, LAYERS), strict=True)
    assert all(torch.equal(mine.weight, theirs.weight) for mine, theirs in layers)


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_without_norms_every_layer_they_followed_has_a_bias_of_0(name, options):
    model = build(name, "none", **options)
    assert modules(model, NORMS) == []
    assert modules(model, nn.Identity) == []  # an activation on offer
    # ViT's patches and ResNet's head never had a norm after them.
    layers = modules(model, nn.Linear if name in ("vit-tiny", "gpt2") else nn.Conv2d)
    assert all((layer.bias == 0).all() for layer in layers)
    model(inputs(name)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("family", ["vit", "gpt2"])
def test_a_transformer_without_norms_is_the_one_with_identities(family):
    name, options = FAMILIES[family]
    theirs = build(name, "layer", **options)
    for path, module in list(theirs.named_modules()):
        if isinstance(module, nn.LayerNorm):
            theirs.set_submodule(path, nn.Identity())
    spread_out(theirs)
    ours = build(name, "none", **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_same(ours(inputs(name)), theirs(inputs(name)))


def test_vgg_without_norms_is_torchvisions_vgg():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg11().eval()
    ours = build("vgg11", "none", nn.ReLU, num_classes=1000, head="imagenet").eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, value in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, value)
    with torch.no_grad():
        assert_same(ours(inputs("vgg11", 1, 64)), theirs(inputs("vgg11", 1, 64)))


class Bias(nn.Module):
    """Add a bias, which is all that stays of a norm that is left out."""

    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x + self.bias[:, None, None]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("norm", ["gn", "none"])
def test_resnet_is_torchvisions_with_the_other_norm(name, norm):
    layer = Bias if norm == "none" else functools.partial(conv_norm, norm="gn")
    torch.manual_seed(0)
    theirs = spread_out(torchvision.models.get_model(name, norm_layer=layer, num_classes=10))
    ours = build(name, norm, nn.ReLU, stem="imagenet")
    state = theirs.state_dict()
    if norm == "none":
        state = {
            key.replace("bn", "conv").replace("downsample.1", "downsample.0"): value
            for key, value in state.items()
        }
    ours.load_state_dict(state, strict=True)
    assert_same(ours(inputs(name, size=64)), theirs(inputs(name, size=64)))


@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
def test_group_norm_stands_where_batch_norm_stood(name):
    def norms(model, kind):
        named = model.named_modules()
        return {path: m.weight.numel() for path, m in named if isinstance(m, kind)}

    usual, ours = build(name, "bn"), build(name, "gn")
    assert norms(ours, nn.GroupNorm) == norms(usual, nn.BatchNorm2d)
    assert [key for key, _ in ours.named_parameters()] == [
        key for key, _ in usual.named_parameters()
    ]
    assert list(ours.buffers()) == []
    images = inputs(name, 3)
    assert_same(ours(images)[:1], ours(images[:1]))  # nothing of the other images


@pytest.mark.parametrize(
    ("width", "groups"), [(16, 4), (32, 8), (64, 16), (128, 32), (256, 32), (512, 32), (2048, 32)]
)
def test_group_norm_has_32_groups_of_at_least_4_channels(width, groups):
    assert conv_norm(width, "gn").num_groups == groups


# --- initial gain ---


CLOSED_FORMS = {
    "ReLU": 1 / 2,
    "LeakyReLU": (1 + 0.01**2) / 2,
    "Identity": 1,
    "SELU": 1,  # what its constants are made for
    "GELU": 1 / 4 + (math.asin(1 / 2) + 1 / math.sqrt(3)) / (2 * math.pi),
    "SquarePlus": 3 / 2,
    "ReLU2": 3 / 2,
    # x² within -1 and 1, by parts
    "Hardtanh": 1 - 2 * stats.norm.pdf(1),
}
FORMULAS = {
    "GoLU": lambda x, sigma: x * math.exp(-math.exp(-x)),
    "Softshrink": lambda x, sigma: math.copysign(max(abs(x) - 0.5, 0), x),
    "SiLU": lambda x, sigma: x / (1 + math.exp(-x)),
    "ZiLU": lambda x, sigma: x * (0.5 + math.atan(sigma * x) / math.pi),
    "ArcTan": lambda x, sigma: 0.5 + math.atan(sigma * x) / math.pi,
    "ZiLU_Approx": lambda x, sigma: x * (1 + sigma * x / (1 + abs(sigma * x))) / 2,
    "Sigmoid": lambda x, sigma: 1 / (1 + math.exp(-x)),
}


@pytest.mark.parametrize(("name", "value"), CLOSED_FORMS.items())
def test_second_moments_of_closed_form(name, value):
    assert second_moment(create_activation(name)) == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("sigma", [0.1, 1, 10])
@pytest.mark.parametrize("name", FORMULAS)
def test_second_moments_by_quadrature(name, sigma):
    def integrand(x):
        return FORMULAS[name](x, sigma) ** 2 * stats.norm.pdf(x)

    value, _ = integrate.quad(integrand, -12, 12, points=[0], epsabs=1e-12)
    assert second_moment(create_activation(name, sigma)) == pytest.approx(value, rel=1e-7)


def test_second_moment_of_a_step():
    assert second_moment(create_activation("ArcTan", 1e9)) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_gets_its_gain(name):
    learnable = name in SIGMA_NAMES
    activation = functools.partial(create_activation, name, learnable=learnable, inplace=True)
    _, options = FAMILIES["gpt2"]
    usual, model = (build("gpt2", "auto", activation, **options) for _ in range(2))
    unit_gain(model, activation)
    gain = math.sqrt(0.5 / second_moment(activation()))
    assert (gain == pytest.approx(1, abs=1e-7)) == (name == "ReLU")
    theirs = dict(usual.named_parameters())
    for key, value in model.named_parameters():
        factor = gain if key.endswith("mlp.c_proj.weight") else 1
        assert torch.allclose(value, factor * theirs[key], rtol=1e-6, atol=0), key
        assert value.dtype == torch.float32


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_relu_has_its_gain_to_the_last_bit(name, options):
    model, usual = (build(name, "none", nn.ReLU, **options) for _ in range(2))
    unit_gain(model, nn.ReLU)
    for value, same in zip(model.parameters(), usual.parameters(), strict=True):
        assert torch.equal(value, same)


class Plain(nn.Sequential):
    """Stack linear layers of one width, drawn with ReLU's gain: the setting of He et al."""

    def __init__(self, width, depth, activation):
        torch.manual_seed(0)
        layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / width))
        super().__init__(*[part for layer in layers for part in (activation(), layer)])

    def around_activations(self):
        layers = modules(self, nn.Linear)
        return layers[:-1], layers


@torch.no_grad()
def moments(model, x, kind):
    """Return the second moment of what every activation is given."""
    seen = []

    def keep(site, arguments):
        seen.append(arguments[0].square().mean().item())

    hooks = [site.register_forward_pre_hook(keep) for site in modules(model, kind)]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", ["ZiLU", "GELU", "SiLU"])
def test_unit_gain_keeps_the_second_moment_over_depth(name):
    activation = functools.partial(create_activation, name)
    x = torch.randn(256, 1024, generator=torch.Generator().manual_seed(1))
    model, kind = Plain(1024, 10, activation), type(activation())
    shrunk = moments(model, x, kind)
    assert shrunk[-1] < 0.3 * shrunk[0]
    unit_gain(model, activation)
    kept = moments(model, x, kind)
    assert all(0.8 < value < 1.25 for value in kept), kept


def moments_in_vgg(images):
    """Return the moments without norms: ZiLU's with torch's gain and with its own, and ReLU's."""
    activation = functools.partial(create_activation, "ZiLU")
    options = {"image_size": 64, "head": "linear"}
    model = build("vgg16", "none", activation, **options)
    kind = type(activation())
    shrunk = moments(model, images, kind)
    unit_gain(model, activation)
    kept = moments(model, images, kind)
    relu = moments(build("vgg16", "none", nn.ReLU, **options), images, nn.ReLU)
    assert shrunk[0] == kept[0] == relu[0]  # it reads the image
    return shrunk, kept, relu


def test_unit_gain_keeps_the_second_moment_in_a_vgg_without_norms():
    # The first layer, drawn by fan_out, makes 3 * 9 * 2 / (64 * 9) = 0.09 of the images' moment.
    shrunk, kept, _ = moments_in_vgg(inputs("vgg16", 4, 64) * math.sqrt(64 / 6))
    assert kept[0] == pytest.approx(1, rel=0.2)
    assert all(0.4 < value < 2 for value in kept), kept
    assert shrunk[-1] < 0.001


def test_small_moments_shrink_with_unit_gain_too_but_less():
    shrunk, kept, relu = moments_in_vgg(inputs("vgg16", 4, 64))
    assert 100 * shrunk[-1] < kept[-1] < 0.1 * relu[-1]


# --- through the command line ---

VISION = (
    "--model", "resnet20", "--dataset", "imagefolder", "--batch_size", "16",
    "--num_epochs", "1", "--device", "cpu", "--lr", "1e-4",
)  # fmt: skip
LANGUAGE = (
    "--dataset", "text", "--tokenizer", "bytes", "--num_layers", "1", "--embedding_dim", "16",
    "--num_attention_heads", "2", "--max_seq_length", "16", "--batch_size", "4",
    "--num_epochs", "1", "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_text("a line of text\n" * 20)
    return folder


def by_tokens(values, norm):
    """Normalise each feature over all the tokens of a batch: BatchNorm by its definition."""
    tokens = values.double().flatten(0, 1)  # (B * N, width)
    mean, variance = tokens.mean(0), tokens.var(0, unbiased=False)
    normal = (values.double() - mean) / (variance + norm.bn.eps).sqrt()
    return normal * norm.bn.weight.double() + norm.bn.bias.double()


def test_a_vit_with_batch_norm_normalises_over_batch_and_tokens():
    model = spread_out(build("vit-tiny", "bn"))
    seen = []
    norms = modules(model, TokenBatchNorm)
    assert len(norms) == 25  # two in each of 12 blocks, and the last
    for norm in norms:
        norm.register_forward_hook(lambda *call: seen.append(call))
    model(inputs("vit-tiny", 4))
    assert len(seen) == 25
    for norm, (values,), result in seen:
        assert values.shape == (4, 65, 192)
        assert result.shape == values.shape
        assert_same(result.double(), by_tokens(values, norm))
        unbiased = values.detach().flatten(0, 1).var(0)
        torch.testing.assert_close(norm.bn.running_var, 0.9 + 0.1 * unbiased, rtol=1e-4, atol=1e-6)


def test_a_vit_with_batch_norm_is_timms():
    """Timm's own network, given this norm: the last one sees all tokens, not the class token's."""
    timm = pytest.importorskip("timm")
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=192, num_heads=3,
        norm_layer=lambda width, **where: TokenBatchNorm(width),
    )  # fmt: skip
    ours = build("vit-tiny", "bn")
    ours.load_state_dict(spread_out(theirs).state_dict(), strict=True)
    for training in (True, False):
        pair = [model.train(training)(inputs("vit-tiny", 4)) for model in (ours, theirs)]
        assert_same(*pair)


@pytest.mark.slow
def test_a_vit_with_batch_norm_compiles_as_one_graph():
    torch._dynamo.reset()
    model = build("vit-tiny", "bn")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(compiled(inputs("vit-tiny")), model(inputs("vit-tiny")))


@pytest.mark.parametrize(
    ("module", "norm"), [("vision_main", "gn"), ("language_main", "none"), ("vit", "bn")]
)
def test_a_run_is_trained_and_evaluated_with_the_norms_asked_for(
    forked, tmp_path, text, image_folder, module, norm
):
    folder = tmp_path / "run"
    flags = {
        "vit": (*VISION, "--model", "vit-tiny", "--data_path", image_folder),
        "vision_main": (*VISION, "--data_path", image_folder),
        "language_main": (*LANGUAGE, "--data_path", text),
    }[module]
    module = "vision_main" if module == "vit" else module
    (code,), output = forked(
        module, *flags, "--norm", norm, "--init_gain", "unit", "--output_dir", folder
    )
    assert code == 0, output
    described = (folder / "model.txt").read_text()
    assert ("GroupNorm" in described) == (norm == "gn")
    assert ("BatchNorm" in described) == (norm == "bn")
    assert "LayerNorm" not in described
    (code,), output = forked(module, *flags, "--test_only", "--output_dir", folder)
    assert code == 0, output
    trained = (folder / "train_eval_results.txt").read_text().splitlines()[-1]
    loss = trained.split("[Test] ")[1].split()[1]
    assert f"Loss: {loss}" in (folder / "test_results.txt").read_text()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--norm", "layer"), "--norm layer does not apply to resnet20"),
        (("--norm", "none", "--sync_batchnorm"), "--norm none has no BatchNorm"),
        (("--shortcut", "pad", "--model", "vgg11"), "--shortcut pad does not apply to vgg11"),
        (("--model", "timm/resnet18", "--norm", "none"), "--norm none does not apply to timm"),
        (("--model", "timm/resnet18", "--init_gain", "unit"), "--init_gain does not apply to timm"),
        (("--init_gain", "unit", "--rescale_init", "2"), "leave out one of them"),
    ],
)
def test_what_cannot_be_is_one_line(mistake_in, flags, line):
    import vision_main

    assert line in mistake_in(vision_main, *VISION, "--activation", "ZiLU", *flags)
