"""Let Hugging Face's configurations name the activations, as `activation_function="zilu"`."""

import functools
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from zilu.modules import SigmaModule
from zilu.names import ALIASES, OUTPUT_NAMES, SIGMA_NAMES, check_save, check_sigma
from zilu.registry import create_activation


def register_transformers(sigma: float = 1.0, learnable: bool = False, save: str = "input") -> None:
    """Teach Hugging Face's transformers the names of the activations.

        register_transformers(sigma=0.5)
        model = GPT2LMHeadModel(GPT2Config(activation_function="zilu"))

    The names are zilu, zilu_approx, gelu_s, silu_s, arctan, arctan_approx, iglu, iglu_approx and
    squareplus. A configuration saves the name but not sigma, so register again before loading.
    Models built earlier keep their sigma. A name that transformers itself uses keeps its meaning.

    Folders that `export.py RUN --to hf` wrote are then loaded without their own code, with the
    fused activations (transformers 5.0 and newer). They save sigma; the arguments are not for them.

    Args:
        sigma: sharpness of the activations that have one.
        learnable: make sigma a parameter of each layer.
        save: what zilu, zilu_approx and squareplus keep for backward, "input" or "output".

    Raises:
        ImportError: transformers is not installed.
        ValueError: sigma is not a finite number above 0, or `save` is neither.
    """
    sigma = check_sigma(sigma)
    check_save("ZiLU", save)
    try:
        import transformers.activations  # optional, and slow to import
    except ImportError as error:
        raise ImportError(
            "register_transformers needs transformers: pip install 'transformers>=4.45'"
        ) from error
    classes, functions = transformers.activations.ACT2CLS, transformers.activations.ACT2FN
    for name in (*SIGMA_NAMES, *ALIASES, "SquarePlus"):
        learn = learnable and name != "SquarePlus"
        # Some models call the value in `classes`, so it cannot be the usual (class, arguments).
        saved = save if ALIASES.get(name, name) in OUTPUT_NAMES else "input"
        maker = functools.partial(create_activation, name, sigma=sigma, learnable=learn, save=saved)
        key = name.lower()
        if _is_free(classes, key):
            classes[key] = maker
            functions[key] = maker
    if learnable:
        _initialise_missing_sigmas(transformers.PreTrainedModel)
    if int(transformers.__version__.partition(".")[0]) >= 5:
        _register_exported(transformers)


def _register_exported(transformers: Any) -> None:
    """Register the networks of exported folders, with this package's activations."""
    for name in ("GPT2", "HF"):
        module: Any = import_module(f"zilu.exported.modeling_zilu_{name.lower()}")
        config = getattr(module, f"Zilu{name}Config")
        model = getattr(module, f"Zilu{name}ForCausalLM")
        model.make_activation = staticmethod(_exported_activation)
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        transformers.AutoModelForCausalLM.register(config, model, exist_ok=True)


def _exported_activation(spec: Mapping[str, Any]) -> nn.Module:
    """Make the activation of a spec, as zilu/exported/zilu_activations.py has them."""
    if "args" in spec:
        return create_activation(f"torch.nn:{spec['name']}", args=spec["args"])
    names = ("sigma", "learnable", "expand_gate")
    return create_activation(spec["name"], **{name: spec[name] for name in names if name in spec})


def _is_free(table: dict[str, Any], key: str) -> bool:
    """Return whether `key` is new, or was registered here by an earlier call."""
    return key not in table or getattr(table[key], "func", None) is create_activation


def _initialise_missing_sigmas(models: Any) -> None:
    """Make `from_pretrained` initialise each sigma that the checkpoint lacks.

    It builds models without memory, and leaves missing weights to the models' own initialisation.
    That does not know these modules, so their sigmas would hold uninitialised memory.

    Args:
        models: the base class of the library's models.
    """
    original = models._initialize_weights
    if original.__module__ == __name__:
        return

    def initialize_weights(self: Any, module: nn.Module, *arguments: Any) -> None:
        if isinstance(module, SigmaModule) and not getattr(module, "_is_hf_initialized", False):
            module.reset_parameters()
        original(self, module, *arguments)

    models._initialize_weights = initialize_weights
