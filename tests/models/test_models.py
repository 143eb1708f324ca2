"""The networks are the published ones, and every activation in them is the one that was given."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import models
from models import LANGUAGE_MODELS, VISION_MODELS, build_model, resnet, resolve_options, vgg, vit

TORCHVISION = {
    "vgg11": "vgg11_bn",
    "vgg13": "vgg13_bn",
    "vgg16": "vgg16_bn",
    "vgg19": "vgg19_bn",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
}
TIMM = {
    "vit-tiny": "vit_tiny_patch16_224",
    "vit-small": "vit_small_patch16_224",
    "vit-medium": {"embed_dim": 512, "num_heads": 8},  # no plain name in timm
    "vit-base": "vit_base_patch16_224",
    "vit-large": "vit_large_patch16_224",
}
PUBLISHED = [*TORCHVISION, *TIMM]
# Small and quick, and every block, stem and head is among them.
REPRESENTATIVES = ["vgg11", "resnet18", "resnet50", "resnet20", "vit-tiny"]
FORCED = [
    # Three seconds each, for 124 million parameters.
    pytest.param("vgg11", {"head": "imagenet"}, marks=pytest.mark.slow),
    ("resnet18", {"stem": "imagenet"}),
]
# (name, image size) of every network at its small form, and of every large form.
EVERY_FORM = [(name, 32) for name in VISION_MODELS] + [(name, 224) for name in PUBLISHED]


def own_activation(name):
    """Return the factory of the activation that the published network has."""
    return nn.GELU if name in TIMM else nn.ReLU


def reference(name):
    """Build the published network by its own library, at 224 px and 1000 classes."""
    if name in TORCHVISION:
        return torchvision.models.get_model(TORCHVISION[name])
    timm = pytest.importorskip("timm")
    if isinstance(TIMM[name], dict):
        return timm.models.vision_transformer.VisionTransformer(**TIMM[name])
    return timm.create_model(TIMM[name])


def on_meta(build, *args, **kwargs):
    """Build without memory or random numbers: shapes only."""
    with torch.device("meta"):
        return build(*args, **kwargs)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


def shapes(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def images(batch, size):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def spread_out(model):
    """Move everything off its initial value, so that nothing is hidden by a 0 or a 1."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.dim() != 1 and name != "cls_token":
                continue  # matrices and filters start random; num_batches_tracked has no axis
            if name.endswith(("weight", "running_var")):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            else:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return model


def twins(name):
    """Build the published network and ours with its weights, loaded strictly."""
    torch.manual_seed(0)
    theirs = spread_out(reference(name))
    ours = on_meta(build_model, name, own_activation(name), num_classes=1000, image_size=224)
    # assign: the two share one copy of the weights
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return ours, theirs


def run(model, x):
    torch.manual_seed(3)  # dropout
    return model(x)


def assert_same(ours, theirs):
    """Compare by the largest value: a logit near 0 is no more exact than the others."""
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def assert_same_gradient(ours, theirs):
    # The floor is for biases before BatchNorm, whose gradient is nothing but rounding noise.
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-6


# --- the published networks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_classes", "image_size", "count"),
    [
        ("resnet18", 1000, 224, 11_689_512),
        ("resnet34", 1000, 224, 21_797_672),
        ("resnet50", 1000, 224, 25_557_032),
        ("resnet20", 10, 32, 272_474),
        ("resnet20", 100, 32, 278_324),
        ("resnet32", 10, 32, 466_906),
        ("resnet44", 10, 32, 661_338),
        ("resnet56", 10, 32, 855_770),
        ("vgg11", 1000, 224, 132_868_840),
        ("vgg16", 1000, 224, 138_365_992),
        ("vgg16", 10, 32, 14_728_266),
        ("vit-tiny", 1000, 224, 5_717_416),
        ("vit-medium", 1000, 224, 38_837_736),
        ("vit-base", 1000, 224, 86_567_656),
    ],
)
def test_parameter_count(name, num_classes, image_size, count):
    model = on_meta(build_model, name, nn.ReLU, num_classes, image_size)
    assert count_parameters(model) == count


@pytest.mark.parametrize(
    ("name", "count"),
    # By hand from section 4.2: 432 + 160 + 9,416 + ... The paper's table 6 rounds these to 0.27,
    # 0.46, 0.66 and 0.85 million.
    [("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018)],
)
def test_parameter_count_of_the_papers_resnets_for_cifar(name, count):
    assert count_parameters(on_meta(build_model, name, nn.ReLU, shortcut="pad")) == count


def test_parameter_count_of_a_vgg_for_cifar_with_the_wide_head():
    """The 34.0 million of weiaicunzai/pytorch-cifar100's table."""
    model = on_meta(build_model, "vgg16", nn.ReLU, 100, head="wide")
    assert count_parameters(model) == 14_723_136 + (512 + 4096 + 100) * 4096 + 2 * 4096 + 100
    wide, linear = model.classifier, on_meta(build_model, "vgg16", nn.ReLU, 100).classifier
    assert [layer.in_features for layer in wide if hasattr(layer, "in_features")] == [
        linear.in_features, 4096, 4096
    ]  # fmt: skip


class OptionA(nn.Module):
    """The paper's option A by hand: a loop over pixels, and zeros around the channels."""

    def __init__(self, width, stride):
        super().__init__()
        self.width, self.stride = width, stride

    def forward(self, x):
        batch, channels, height, _ = x.shape
        side = -(-height // self.stride)
        first = (self.width - channels) // 2
        out = x.new_zeros(batch, self.width, side, side)
        for row in range(side):
            for column in range(side):
                pixel = x[:, :, row * self.stride, column * self.stride]
                out[:, first : first + channels, row, column] = pixel
        return out


@pytest.mark.parametrize(("name", "size"), [("resnet20", 32), ("resnet18", 9), ("resnet50", 16)])
def test_padded_shortcuts_are_option_a(name, size):
    """Against the network with projections, whose shortcuts are replaced by hand."""
    theirs = build_model(name, nn.ReLU, image_size=size)
    replaced = 0
    for path, module in list(theirs.named_modules()):
        if path.endswith("downsample"):
            theirs.set_submodule(path, OptionA(module[0].out_channels, module[0].stride[0]))
            replaced += 1
    assert replaced == (4 if name == "resnet50" else len(resnet.VARIANTS[name].depths) - 1)
    spread_out(theirs)
    ours = build_model(name, nn.ReLU, image_size=size, shortcut="pad")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for training in (False, True):
        pair = [model.train(training)(images(4, size)) for model in (ours, theirs)]
        assert_same(*pair)
    gradients = [
        torch.autograd.grad(logits.square().mean(), list(model.parameters()))
        for logits, model in zip(pair, (ours, theirs), strict=True)
    ]
    for mine, other in zip(*gradients, strict=True):
        assert_same_gradient(mine, other)


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_has_the_published_keys_and_shapes(name):
    ours = on_meta(build_model, name, own_activation(name), num_classes=1000, image_size=224)
    theirs = on_meta(reference, name)
    assert shapes(ours) == shapes(theirs)
    assert count_parameters(ours) == count_parameters(theirs)


def check_outputs(name, size):
    ours, theirs = twins(name)
    x = images(2, size)
    with torch.no_grad():
        assert_same(run(ours.eval(), x), run(theirs.eval(), x))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_equal_the_published_at_224(name):
    check_outputs(name, 224)


def check_training(name, size):
    ours, theirs = twins(name)
    x, target = images(4, size), torch.arange(4)
    # The two share their weights, so gradients would add up: take them from the graph instead.
    results = []
    for model in (ours, theirs):
        out = run(model.train(), x)
        loss = F.cross_entropy(out, target)
        names, parameters = zip(*model.named_parameters(), strict=True)
        results.append((out, dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))))
    (our_out, our_gradients), (their_out, their_gradients) = results
    assert_same(our_out, their_out)
    for key, expected in their_gradients.items():
        assert_same_gradient(our_gradients[key], expected)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("vgg11", 64, marks=pytest.mark.slow),
        ("resnet18", 96),
        ("resnet50", 64),
        ("vit-tiny", 224),
    ],
)
def test_equals_the_published_in_evaluation_and_training(name, size):
    check_outputs(name, size)
    check_training(name, size)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50"])
def test_initial_weights_are_torchvisions(name):
    torch.manual_seed(0)
    ours = build_model(name, nn.ReLU, num_classes=1000, image_size=224).state_dict()
    torch.manual_seed(0)
    theirs = reference(name).state_dict()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_initial_weights_are_distributed_as_timms():
    # torch's and timm's truncated normals draw differently, so only distributions can be equal.
    torch.manual_seed(0)
    ours = build_model("vit-tiny", nn.GELU, num_classes=1000, image_size=224).state_dict()
    for key, theirs in reference("vit-tiny").state_dict().items():
        if theirs.numel() < 100_000 and theirs.std() > 0:
            assert ours[key].std().item() == pytest.approx(theirs.std().item(), rel=0.3), key
        else:
            assert ours[key].std().item() == pytest.approx(theirs.std().item(), rel=0.02), key
        # five standard errors of the difference, and exact where nothing is random
        assert abs(ours[key].mean() - theirs.mean()) <= 7 * theirs.std() / theirs.numel() ** 0.5


# --- the activation -------------------------------------------------------------------------------


class Sine(nn.Module):
    """Compute a sine: an activation that no network has, so that every use of it is ours."""

    def forward(self, x):
        return torch.sin(x)


def sites(model, kind=Sine):
    return [module for module in model.modules() if isinstance(module, kind)]


SITES = {
    **{"vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16},
    **{"resnet18": 17, "resnet34": 33, "resnet50": 49},
    **{"resnet20": 19, "resnet32": 31, "resnet44": 43, "resnet56": 55},
    **{"vit-tiny": 12, "vit-small": 12, "vit-medium": 12, "vit-base": 12, "vit-large": 24},
}


@pytest.mark.parametrize(("name", "size"), EVERY_FORM)
def test_every_site_has_its_own_instance_and_is_used_once(name, size):
    made = []

    def factory():
        made.append(Sine())
        return made[-1]

    model = on_meta(build_model, name, factory, num_classes=7, image_size=size)
    two_more = name.startswith("vgg") and size == 224  # in the head
    assert len(made) == SITES[name] + 2 * two_more
    assert Counter(map(id, sites(model))) == Counter(map(id, made))

    calls = Counter()
    for module in made:
        module.register_forward_hook(lambda module, args, out: calls.update([id(module)]))
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)
    assert calls == Counter(map(id, made))


class RecordOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


LINEAR_OPS = {"convolution", "addmm", "mm", "add", "mean", "_adaptive_avg_pool2d", "cat"}
LAYOUT_OPS = {"t", "transpose", "permute", "view", "_unsafe_view", "reshape", "expand", "unbind"}
LAYOUT_OPS |= {"clone", "detach", "empty", "slice", "select"}
# In training: dropout, and BatchNorm's count of batches, the one thing that is added in place.
TRAINING_OPS = {"empty_like", "bernoulli_", "div_", "mul", "add_"}
OTHER_OPS = {
    "vgg": {"native_batch_norm", "max_pool2d_with_indices"},
    "resnet": {"native_batch_norm", "max_pool2d_with_indices"},
    "vit": {"native_layer_norm", "_scaled_dot_product_flash_attention_for_cpu"},
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in REPRESENTATIVES), *FORCED], ids=str
)
def test_no_other_nonlinearity_runs(name, options, training):
    model = build_model(name, Sine, image_size=32, **options).train(training)
    x = images(2, 32)
    with RecordOps() as record:
        model(x)
    assert record.ops.pop("sin") == len(sites(model))
    family = next(family for family, names in models.FAMILIES.items() if name in names)
    allowed = LINEAR_OPS | LAYOUT_OPS | OTHER_OPS[family]
    assert set(record.ops) <= (allowed | TRAINING_OPS if training else allowed)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_no_identity_modules(name):
    # Identity is itself an activation on offer: a site must be recognisable by its type.
    assert sites(on_meta(build_model, name, nn.ReLU), nn.Identity) == []
    assert len(sites(on_meta(build_model, name, nn.Identity), nn.Identity)) == SITES[name]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_parameters_of_activations_are_not_shared_and_all_train(name):
    model = build_model(name, nn.PReLU)
    model(images(4, 32)).square().mean().backward()
    weights = [site.weight for site in sites(model, nn.PReLU)]
    assert len({id(weight) for weight in weights}) == len(weights) == SITES[name]
    assert all(weight.grad.abs() > 0 for weight in weights)


@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in REPRESENTATIVES), *FORCED])
def test_initial_weights_do_not_depend_on_the_activation(name, options):
    def build(activation, seed=0):
        torch.manual_seed(seed)
        model = build_model(name, activation, **options)
        return model.state_dict(), torch.get_rng_state()

    weights, generator = build(nn.ReLU)
    for activation in (nn.PReLU, nn.Identity):
        others, other_generator = build(activation)
        extra = set(others) - set(weights)
        assert bool(extra) == (activation is nn.PReLU)
        for key, value in weights.items():
            assert torch.equal(others[key], value), key
        assert torch.equal(other_generator, generator)

    other_seed, _ = build(nn.ReLU, seed=1)
    for key, value in weights.items():
        if value.dim() > 1:
            assert not torch.equal(other_seed[key], value), key


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        *((name, {}, kind) for name in REPRESENTATIVES for kind in (nn.ReLU, nn.SiLU)),
        pytest.param("vgg11", {"head": "imagenet"}, nn.ReLU, marks=pytest.mark.slow),
        ("resnet18", {"stem": "imagenet"}, nn.ReLU),
    ],
)
def test_inplace_activations_train_alike(name, options, kind):
    torch.manual_seed(0)
    model = build_model(name, kind, **options)
    gradients = []
    for inplace in (False, True):
        for site in sites(model, kind):
            site.inplace = inplace
        x = images(4, 32)
        loss = F.cross_entropy(run(model, x), torch.arange(4))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        assert torch.equal(x, images(4, 32))
    for plain, inplace in zip(*gradients, strict=True):
        assert_same_gradient(inplace, plain)


# --- shapes and options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "forced", "resolved"),
    [
        ("vgg16", 32, {}, {"head": "linear"}),
        ("vgg16", 64, {}, {"head": "linear"}),
        ("vgg16", 65, {}, {"head": "imagenet"}),
        ("vgg16", 32, {"head": "imagenet"}, {"head": "imagenet"}),
        ("vgg16", 224, {"head": "linear"}, {"head": "linear"}),
        ("resnet50", 8, {}, {"stem": "cifar"}),
        ("resnet50", 64, {}, {"stem": "cifar"}),
        ("resnet50", 65, {}, {"stem": "imagenet"}),
        ("resnet50", 32, {"stem": "imagenet"}, {"stem": "imagenet"}),
        ("resnet50", 224, {"stem": "cifar"}, {"stem": "cifar"}),
        ("resnet56", 224, {}, {"stem": "cifar"}),
        ("resnet56", 8, {"stem": "cifar"}, {"stem": "cifar"}),
        ("resnet20", 32, {"shortcut": "conv"}, {"stem": "cifar"}),
        ("resnet20", 32, {"shortcut": "pad"}, {"stem": "cifar", "shortcut": "pad"}),
        ("vit-base", 64, {}, {"patch_size": 4}),
        ("vit-base", 80, {}, {"patch_size": 16}),
        ("vit-base", 32, {"patch_size": 8}, {"patch_size": 8}),
        ("vit-base", 224, {"patch_size": 14}, {"patch_size": 14}),
    ],
)
def test_options_resolve_and_are_built(name, size, forced, resolved):
    norm = "layer" if name.startswith("vit") else "bn"
    assert resolve_options(name, size, **forced) == resolved | {"norm": norm}
    model = on_meta(build_model, name, nn.ReLU, image_size=size, **forced)
    if "head" in resolved:
        assert isinstance(model.classifier, nn.Linear) == (resolved["head"] == "linear")
    elif "stem" in resolved:
        large = resolved["stem"] == "imagenet"
        assert hasattr(model, "maxpool") == large
        assert model.conv1.stride == ((2, 2) if large else (1, 1))
        assert model.conv1.kernel_size == ((7, 7) if large else (3, 3))
    else:
        patch = resolved["patch_size"]
        assert model.patch_embed.proj.kernel_size == model.patch_embed.proj.stride == (patch, patch)
        assert model.pos_embed.shape == (1, 1 + (size // patch) ** 2, 768)


@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [
        ("resnet20", {}, [(16, 32), (32, 16), (64, 8)]),
        ("resnet18", {}, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        ("resnet50", {}, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("resnet18", {"stem": "imagenet"}, [(64, 8), (128, 4), (256, 2), (512, 1)]),
    ],
)
def test_resnet_stages_have_the_published_widths_and_sizes(name, options, stages):
    model = on_meta(build_model, name, nn.ReLU, **options)
    outputs = []
    for child_name, child in model.named_children():
        if child_name.startswith("layer"):
            child.register_forward_hook(lambda module, args, out: outputs.append(out.shape))
    model(torch.empty(2, 3, 32, 32, device="meta"))
    assert outputs == [(2, width, size, size) for width, size in stages]


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("vgg11", 40, {}),
        ("vgg11", 65, {"head": "linear"}),
        ("resnet18", 40, {}),
        ("resnet18", 40, {"stem": "imagenet"}),
        ("resnet50", 28, {}),
        ("resnet20", 28, {}),
        ("resnet20", 8, {}),
        ("vit-tiny", 40, {}),
        ("vit-tiny", 28, {"patch_size": 7}),
        ("vit-tiny", 8, {}),
    ],
)
def test_unusual_sizes_train(name, size, options):
    model = build_model(name, nn.SiLU, num_classes=3, image_size=size, **options)
    out = model(images(2, size))
    assert out.shape == (2, 3)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_tables_of_names_agree():
    for family, module in (("vgg", vgg), ("resnet", resnet), ("vit", vit)):
        assert set(module.VARIANTS) == set(models.FAMILIES[family])


def test_names_and_options_need_no_torch():
    code = """
import sys, models
assert models.resolve_options("resnet18", 32) == {"stem": "cifar", "norm": "bn"}
try:
    models.resolve_options("resnet19", 32)
except ValueError:
    sys.exit("torch" in sys.modules)
"""
    root = Path(models.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# --- errors ---------------------------------------------------------------------------------------


ERRORS = [
    (
        ("resnet", 32),
        "unknown model 'resnet': did you mean resnet56? known: vgg11, vgg13,",
    ),
    (("ViT_Base", 32), "unknown model 'ViT_Base': did you mean vit-base? known: vgg11,"),
    (("alexandria", 32), "unknown model 'alexandria': known: vgg11,"),
    (
        ("resnet18", 32, {"head": "linear"}),
        "--head linear does not apply to resnet18, only to VGGs: leave out --head",
    ),
    (
        ("vit-tiny", 32, {"head": "imagenet"}),
        "--head imagenet does not apply to vit-tiny, only to VGGs: leave out --head",
    ),
    (
        ("vgg11", 32, {"stem": "cifar"}),
        "--stem cifar does not apply to vgg11, only to ResNets: leave out --stem",
    ),
    (
        ("vit-tiny", 32, {"stem": "imagenet"}),
        "--stem imagenet does not apply to vit-tiny, only to ResNets: leave out --stem",
    ),
    (
        ("resnet20", 32, {"patch_size": 4}),
        "--patch_size 4 does not apply to resnet20, only to ViTs: leave out --patch_size",
    ),
    (
        ("vgg11", 32, {"patch_size": 4}),
        "--patch_size 4 does not apply to vgg11, only to ViTs: leave out --patch_size",
    ),
    (
        ("resnet20", 32, {"stem": "imagenet"}),
        "--stem imagenet does not apply to resnet20, only to resnet18, resnet34 and resnet50: "
        "leave out --stem",
    ),
    (
        ("vit-tiny", 32, {"norm": "gn"}),
        "--norm gn does not apply to vit-tiny, only to VGGs and ResNets: leave out --norm",
    ),
    (
        ("vgg11", 32, {"shortcut": "pad"}),
        "--shortcut pad does not apply to vgg11, only to ResNets: leave out --shortcut",
    ),
    (
        ("timm/resnet18", 32, {"shortcut": "pad"}),
        "--shortcut pad does not apply to timm/resnet18, only to this project's ResNets: "
        "leave out --shortcut",
    ),
    (
        ("resnet20", 32, {"shortcut": "projection"}),
        "--shortcut must be one of conv, pad, not 'projection'",
    ),
    (
        ("resnet20", 32, {"norm": "layer"}),
        "--norm layer does not apply to resnet20, only to ViTs and GPT-2: leave out --norm",
    ),
    (
        ("vgg11", 32, {"norm": "batch"}),
        "--norm must be one of auto, bn, gn, layer, rms, none, not 'batch'",
    ),
    (
        ("timm/resnet18", 32, {"norm": "none"}),
        "--norm none does not apply to timm/resnet18, only to this project's models: "
        "leave out --norm",
    ),
    (
        ("resnet18", 32, {"stem": "large"}),
        "--stem must be one of auto, cifar, imagenet, not 'large'",
    ),
    (
        ("vgg11", 32, {"head": "big"}),
        "--head must be one of auto, linear, wide, imagenet, not 'big'",
    ),
    (
        ("vit-tiny", 32, {"patch_size": 0}),
        "--patch_size must be auto or a whole number above 0, not 0",
    ),
    (
        ("vit-tiny", 32, {"patch_size": "four"}),
        "--patch_size must be auto or a whole number above 0, not 'four'",
    ),
    (("vgg11", 31), "vgg11 needs images of at least 32 px, not 31: --resize 32"),
    (
        ("vgg11", 28, {"head": "imagenet"}),
        "vgg11 needs images of at least 32 px, not 28: --resize 32",
    ),
    (
        ("resnet50", 31, {"stem": "imagenet"}),
        "resnet50 with --stem imagenet needs images of at least 32 px, not 31: --resize 32",
    ),
    (
        ("resnet18", 7),
        "resnet18 with --stem cifar needs images of at least 8 px, not 7: --resize 8",
    ),
    (
        ("resnet20", 7),
        "resnet20 with --stem cifar needs images of at least 8 px, not 7: --resize 8",
    ),
    (
        ("vit-tiny", 30),
        "vit-tiny cannot cut images of 30 px into patches of 4: --resize 32, "
        "or a --patch_size that divides 30",
    ),
    (
        ("vit-tiny", 8, {"patch_size": 16}),
        "vit-tiny cannot cut images of 8 px into patches of 16: --resize 16, "
        "or a --patch_size that divides 8",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_errors_are_one_line_with_the_remedy(arguments, message):
    name, size, *options = arguments
    options = options[0] if options else {}
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole text is compared below
        resolve_options(name, size, **options)
    text = str(caught.value)
    assert text.startswith(message)
    assert "\n" not in text
    with pytest.raises(ValueError) as built:  # noqa: PT011
        build_model(name, nn.ReLU, image_size=size, **options)
    if text.startswith("unknown model"):
        assert text.endswith(", ".join(VISION_MODELS))
        assert str(built.value) == ", ".join([text, *LANGUAGE_MODELS])
    else:
        assert str(built.value) == text == message


@pytest.mark.parametrize("name", VISION_MODELS)
def test_the_proposed_resize_works(name):
    proposed = 0
    for size in range(1, 260):
        try:
            resolve_options(name, size)
        except ValueError as error:
            resize = int(str(error).split("--resize ")[1].split(",")[0])
            resolve_options(name, resize)
            proposed += 1
    assert proposed > 0


# --- compilation and memory format ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["resnet20", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "vit-tiny"))],
)
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = build_model(name, nn.GELU)
    x, target = images(4, 32), torch.arange(4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for run_model in (model, compiled):
        out = run_model(x)
        loss = F.cross_entropy(out, target)
        results.append((out, torch.autograd.grad(loss, list(model.parameters()))))
    (eager_out, eager_gradients), (out, gradients) = results
    assert_same(out, eager_out)
    for gradient, expected in zip(gradients, eager_gradients, strict=True):
        assert_same_gradient(gradient, expected)


@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in REPRESENTATIVES), *FORCED])
def test_channels_last_gives_the_same(name, options):
    torch.manual_seed(0)
    model = spread_out(build_model(name, nn.ReLU, image_size=64, **options)).eval()
    x = images(2, 64)
    with torch.no_grad():
        expected = model(x)
        model.to(memory_format=torch.channels_last)
        out = model(x.contiguous(memory_format=torch.channels_last))
    assert_same(out, expected)


@pytest.mark.parametrize("size", [(8, 8), (1, 3), (7, 14), (13, 20)])
def test_row_by_row_averages_are_those_of_adaptive_pooling(size):
    """VGG's head at other sizes than 224, where results are to be deterministic on CUDA."""
    features = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours = vgg.averaged(vgg.averaged(features, 7, dim=2), 7, dim=3)
    theirs = torch.nn.functional.adaptive_avg_pool2d(features, 7)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weights).sum(), features)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients)
