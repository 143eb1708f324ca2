"""Build Hugging Face's causal language models from a configuration, with random weights.

The configuration is adapted to the data: its vocabulary, and room for the positions that are
needed. Everything else stays as config.json says. The network is then run once, to check that it is
a causal language model of the vocabulary.
"""

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from models.generation import Choice, sampled
from models.gpt2_checkpoint import read_tensors
from models.operations import FORWARD_AND_BACKWARD, forward_flops
from models.third_party import as_value_error, check_installed, with_activation
from utils import read_json

if TYPE_CHECKING:  # transformers takes seconds to import, and is optional
    from transformers import PretrainedConfig

# What configurations call the largest number of positions. Others have no such limit.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
CACHES = ("cache", "past_key_values")  # names of the argument, and of the output; the older last
EXPORTED = "zilu_hf"  # what export.py writes of these networks
DROPOUT = r".*(dropout|pdrop)(_prob)?"
EXAMPLE_LENGTH = 16  # tokens
# As a share of the largest logit: rounding stays below it, attention to later tokens above.
LARGEST_LEAK = 1e-5


class CausalLM(nn.Module):
    """Map token ids (B, T), int64, to logits (B, T, vocab_size); T is at most `max_seq_length`.

    Attributes:
        network: Hugging Face's.
        max_seq_length: the largest T.
        flops_per_token: the FLOPs of the matrix products of a forward and a backward pass at full
            length, per token; None where they are not all known.
    """

    flops_per_token: float | None

    def __init__(self, network: nn.Module, max_seq_length: int):
        super().__init__()
        self.network, self.max_seq_length = network, max_seq_length

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.network(input_ids=ids, return_dict=True).logits

    def after(self, past: Any, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return the logits of `ids` behind what `past` has, and the past with them.

        The past is transformers' own cache; None of a network that keeps none, or something else.
        """
        name = next((name for name in CACHES if name in self._arguments), None)
        options: dict[str, Any] = {} if name is None or past is None else {name: past}
        found = self.network(input_ids=ids, use_cache=name is not None, return_dict=True, **options)
        return found.logits, getattr(found, name, None) if name else None

    @functools.cached_property
    def _arguments(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.network.forward).parameters)

    def generate(
        self,
        ids: torch.Tensor,
        count: int,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> torch.Tensor:
        """Continue each row of `ids` by `count` sampled tokens, as GPT2.generate does."""
        choice = Choice(temperature, top_k, top_p)
        return sampled(self, self.max_seq_length, ids, count, generator, choice)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters of learned positions.

        training.optimization asks for them, as it asks timm's models.
        """
        network: Any = self.network  # a PreTrainedModel
        tokens = {network.get_input_embeddings(), network.get_output_embeddings()}
        return {
            f"{path}.weight"
            for path, module in self.named_modules()
            if isinstance(module, nn.Embedding) and module not in tokens
        }


# --- configurations ---


def read_configuration(folder: str | Path) -> dict[str, Any]:
    """Return the content of the config.json in `folder`.

    Raises:
        ValueError: it is missing or broken; one line with the remedy.
    """
    path = Path(folder, "config.json")
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: no configuration that can be read ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: no configuration, which is a mapping: download it again")
    return content


def check_configuration(folder: str | Path, dropout: float | None) -> None:
    """Refuse the configuration in `folder` where it is not that of a causal language model.

    Raises:
        ValueError: it is not, or it has no rates for `dropout` to set; one line with the remedy.
    """
    config = _read(folder)
    if dropout and not dropout_rates(config):
        raise ValueError(
            f"--dropout: the {config.model_type} of {folder} has no dropout: leave out --dropout"
        )


def _transformers() -> Any:
    import transformers  # takes seconds

    return transformers


def _read(folder: str | Path) -> "PretrainedConfig":
    """Return the configuration in `folder` as transformers reads it.

    Raises:
        ValueError: it is missing, broken, or not that of a causal language model.
    """
    read_configuration(folder)
    check_installed("transformers")
    transformers = _transformers()
    transformers.logging.set_verbosity_error()
    complaint = f"{folder}: transformers cannot read its config.json ({{}}): download it again"
    with as_value_error(complaint):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = config.model_type
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.is_encoder_decoder or kind not in known:
        raise ValueError(f"{folder}: a {kind} is no causal language model: take another model")
    return config


def dropout_rates(config: "PretrainedConfig") -> dict[str, float]:
    """Return the configuration's rates of dropout, by the names it has for them."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if re.fullmatch(DROPOUT, name) and isinstance(value, int | float)
    }


def adapted(
    folder: str | Path, vocab_size: int, max_seq_length: int, dropout: float | None
) -> "PretrainedConfig":
    """Return the configuration in `folder`, adapted to the data.

    Args:
        folder: where its config.json is.
        vocab_size: the number of token ids it gets.
        max_seq_length: the number of positions it gets at least.
        dropout: its rates of dropout; None for its own.

    Raises:
        ValueError: as `check_configuration`.
    """
    config = _read(folder)
    changes: dict[str, Any] = {"vocab_size": vocab_size, "use_cache": False}
    for name, value in config.to_dict().items():
        if name in POSITIONS and isinstance(value, int):
            changes[name] = max(value, max_seq_length)
        if name.endswith("_token_id") and isinstance(value, int) and value >= vocab_size:
            changes[name] = None
        if name in ("dtype", "torch_dtype"):  # that of saved weights
            changes[name] = None
    # Texts have no padding, and an embedding learns nothing for the token that stands for it.
    changes["pad_token_id"] = None
    if dropout is not None:
        changes |= dict.fromkeys(dropout_rates(config), dropout)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


# --- building ---


def build(
    folder: str | Path,
    activation: Callable[[], nn.Module],
    vocab_size: int,
    max_seq_length: int,
    dropout: float | None,
) -> CausalLM:
    """Build a freshly initialised network of the configuration in `folder`.

    Raises:
        ValueError: as `check_configuration`; the network cannot be built or run, it sees later
            tokens, or its activations cannot be replaced. One line with the remedy.
    """
    transformers = _transformers()

    config = adapted(folder, vocab_size, max_seq_length, dropout)
    with as_value_error(f"{folder}: the network cannot be built ({{}}): fix its config.json"):
        model = CausalLM(transformers.AutoModelForCausalLM.from_config(config), max_seq_length)
    ids = torch.arange(max_seq_length)[None] % vocab_size  # (1, max_seq_length)
    with as_value_error(
        f"{folder}: the network cannot be run on {max_seq_length} tokens ({{}}): a smaller "
        "--max_seq_length, or another model"
    ):
        flops = forward_flops(model.eval(), ids)
    check_causal(folder, model, ids[:, :EXAMPLE_LENGTH], vocab_size)
    # The products of experts are made where they are not counted.
    has_experts = any("experts" in name for name in config.to_dict())
    model.flops_per_token = None if has_experts else FORWARD_AND_BACKWARD * flops / max_seq_length
    if has_experts:
        warnings.warn("the loss that balances experts is not used", stacklevel=2)
    return with_activation(f"hf/{folder}", model.train(), activation, ids[:, :EXAMPLE_LENGTH])


def load_weights(model: CausalLM, folder: str | Path) -> None:
    """Copy the weights of a checkpoint folder into `model`, in place; activations keep their own.

    Args:
        model: of the checkpoint's configuration, but for its activations.
        folder: as save_pretrained or export.py wrote it.

    Raises:
        ValueError: it cannot be read, or is of another network; one line with the remedy.
    """
    network: Any = model.network
    complaint = f"--init_from {folder}: its weights cannot be read ({{}}): take another checkpoint"
    with as_value_error(complaint):
        theirs = _tensors_of(folder, network.config)
    sites = tuple(f"{site.path}.".removeprefix("network.") for site in model.replacement.replaced)  # type: ignore[union-attr]
    ours = {k: x for k, x in network.state_dict().items() if not k.startswith(sites)}
    theirs = {k: x for k, x in theirs.items() if not k.startswith(sites)}
    tied = network.all_tied_weights_keys
    missing = ours.keys() - theirs - tied.keys()
    further = theirs.keys() - ours
    for problem, keys in (("lacks", missing), ("also has", further)):
        if keys:
            raise ValueError(
                f"--init_from {folder} {problem} {min(keys)} ({len(keys)} such): it is of another "
                "network than --model; take a checkpoint of that one"
            )
    for key, value in theirs.items():
        if ours[key].shape != value.shape:
            raise ValueError(
                f"--init_from {folder}: {key} is {tuple(value.shape)} there and "
                f"{tuple(ours[key].shape)} here; take the tokenizer and the sizes that it was "
                "trained with"
            )
    network.load_state_dict(theirs, strict=False)


def _tensors_of(folder: str | Path, config: "PretrainedConfig") -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by the names that a network of `config` has."""
    content = read_configuration(folder)
    if content.get("model_type") == EXPORTED:
        tensors = read_tensors(folder)
        return {name.removeprefix("network."): value for name, value in tensors.items()}
    # transformers knows old names, and takes several files together.
    _transformers().logging.disable_progress_bar()  # bars are no lines of a log
    own = _transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    if own.model_type != config.model_type:
        raise ValueError(f"a {own.model_type}, not a {config.model_type}")
    network, found = _transformers().AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if lacking := sorted(found["missing_keys"]):
        raise ValueError(f"it lacks {lacking[0]} ({len(lacking)} such)")
    return network.state_dict()


@torch.no_grad()
def check_causal(folder: str | Path, model: nn.Module, ids: torch.Tensor, vocab_size: int) -> None:
    """Refuse a network whose logits depend on later tokens.

    A network that sees the token it is to predict would report a perplexity near 1.

    Args:
        folder: the configuration's, for error messages.
        model: maps ids to logits, in evaluation mode.
        ids: int64 (1, T). The last one is changed; the logits before it must stay the same.
        vocab_size: the number of logits that there must be for each token.

    Raises:
        ValueError: they depend on them, or have another shape; one line with the remedy.
    """
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + vocab_size // 2) % vocab_size
    logits = model(ids)  # (1, T, vocab_size)
    if logits.shape != (*ids.shape, vocab_size):
        raise ValueError(
            f"{folder}: the network gives {tuple(logits.shape)} for {ids.shape[1]} tokens, not "
            f"logits of {vocab_size} ids: take another model"
        )
    difference = (model(changed) - logits).abs()
    if (difference[:, :-1] > LARGEST_LEAK * logits.abs().max()).any():
        raise ValueError(
            f"{folder}: the network sees later tokens, so it cannot learn to predict them (in a "
            "configuration like BERT's, is_decoder true fixes that): take another model"
        )
