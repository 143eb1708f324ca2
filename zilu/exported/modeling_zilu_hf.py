"""Build an exported network of Hugging Face's transformers (5.0 and newer) with other activations.

    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

The network is transformers' own, of the configuration `network`, with the activations that the spec
`activation` lists put in. It needs torch, transformers and the file zilu_activations.py beside this
one.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from .zilu_activations import make, put_into


class ZiluHFConfig(PreTrainedConfig):
    """Hold the network's own configuration, and the spec of its activations with their sites."""

    model_type = "zilu_hf"

    def __init__(
        self,
        network: Mapping[str, Any] | None = None,
        activation: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        self.network = dict(network or {"model_type": "gpt2"})
        self.activation = dict(activation or {"name": "GELU", "sites": []})
        super().__init__(**others)

    def own(self) -> PreTrainedConfig:
        """Return the network's own configuration."""
        settings = dict(self.network)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)

    @property
    def num_hidden_layers(self) -> int:
        """Return the number of blocks, which `generate` asks for."""
        return int(self.own().num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids."""
        return int(self.network["vocab_size"])


class ZiluHFForCausalLM(PreTrainedModel, GenerationMixin):
    """Map token ids (B, T) to logits (B, T, vocab_size), as the network does."""

    config_class = ZiluHFConfig
    _supports_sdpa = True
    make_activation = staticmethod(make)

    def __init__(self, config: ZiluHFConfig) -> None:
        super().__init__(config)
        own = config.own()
        own.dtype = config.dtype
        self.network = AutoModelForCausalLM.from_config(own)
        put_into(self.network, config.activation, self.make_activation)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PreTrainedModel) and module is not self:
            return
        self.network._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.network.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.network.get_output_embeddings()
        return embeddings

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Compute what the network does."""
        return self.network(*arguments, **options)

    def generate(self, *arguments: Any, **options: Any) -> Any:
        """Generate as the network does."""
        if self.generation_config is not None:
            options = {"generation_config": self.generation_config} | options
        return self.network.generate(*arguments, **options)
