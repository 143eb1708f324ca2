"""Build other people's networks, small and with random weights, to replace their activations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Inputs: TypeAlias = dict[str, Tensor]


class Case(NamedTuple):
    """Hold one network to test.

    Attributes:
        build: makes the network and the keyword arguments of a run.
        written: the operator in which the network writes its activation out, where that is none of
            activation_count.UNITS.
    """

    build: Callable[[], tuple[nn.Module, Inputs]]
    written: str | None = None


def _torchvision(name: str, size: int, **options: Any) -> tuple[nn.Module, Inputs]:
    import torchvision  # only some tests need it

    model = torchvision.models.get_model(name, num_classes=10, **options)
    return model, {"x": torch.randn(2, 3, size, size)}


def _timm(name: str, size: int, **options: Any) -> tuple[nn.Module, Inputs]:
    import timm  # an optional dependency

    model = timm.create_model(name, num_classes=10, **options)
    return model, {"x": torch.randn(2, 3, size, size)}


_TORCHVISION = {
    "alexnet": 64, "vgg11_bn": 32, "googlenet": 64, "inception_v3": 299, "densenet121": 32,
    "mobilenet_v2": 32, "mobilenet_v3_small": 32, "efficientnet_b0": 32, "efficientnet_v2_s": 32,
    "regnet_x_400mf": 32, "regnet_y_400mf": 32, "convnext_tiny": 32, "swin_t": 32,
    "swin_v2_t": 64, "mnasnet0_5": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 64,
    "resnet18": 32, "resnext50_32x4d": 32, "wide_resnet50_2": 32, "vit_b_32": 32,
    "maxvit_t": 224,
}  # fmt: skip
_TORCHVISION_OPTIONS = {
    "vit_b_32": {"image_size": 32},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}
_TIMM = {
    "mixer_s32_224": 224, "vit_tiny_patch16_224": 224, "convnext_atto": 32,
    "maxvit_rmlp_pico_rw_256": 256, "swin_tiny_patch4_window7_224": 224, "resnetv2_50": 64,
    "mobilenetv3_small_050": 32, "mobilenetv4_conv_small": 32, "regnety_002": 32,
    "efficientnet_lite0": 32, "rexnet_100": 32, "ghostnet_100": 32, "hrnet_w18_small": 64,
    "dpn48b": 64, "skresnet18": 64, "resnest14d": 64, "xception41": 64, "inception_v4": 96,
    "dla34": 64, "cspdarknet53": 64, "nf_resnet26": 64, "repvgg_a0": 64, "ese_vovnet19b_dw": 64,
    "levit_128s": 224, "mobilevit_xxs": 64, "efficientformer_l1": 224, "poolformer_s12": 64,
    "gmlp_s16_224": 224, "resmlp_12_224": 224, "cait_xxs24_224": 224, "crossvit_tiny_240": 240,
    "pit_ti_224": 224, "edgenext_xx_small": 64, "eva02_tiny_patch14_224": 224,
    "sequencer2d_s": 224, "volo_d1_224": 224, "xcit_nano_12_p16_224": 224,
    "twins_svt_small": 224, "efficientvit_b0": 64, "pvt_v2_b0": 64, "halonet26t": 256,
    "convmixer_768_32": 64, "focalnet_tiny_srf": 64, "davit_tiny": 64, "gcvit_xxtiny": 224,
}  # fmt: skip

VISION = {
    f"torchvision/{name}": Case(
        functools.partial(_torchvision, name, size, **_TORCHVISION_OPTIONS.get(name, {}))
    )
    for name, size in _TORCHVISION.items()
}
VISION |= {
    f"timm/{name}": Case(functools.partial(_timm, name, size)) for name, size in _TIMM.items()
}

# Old and new networks, with functions and with modules, with and without gates.
QUICK_VISION = (
    "torchvision/densenet121", "torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0",
    "torchvision/convnext_tiny", "torchvision/swin_t",
)  # fmt: skip


def _ids() -> Tensor:
    return torch.randint(3, 90, (2, 12))


_IMAGES = {"image_size": 32, "patch_size": 8}
_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
_SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}


def _hf(
    model: str, config: str, inputs: Callable[[], Inputs], **options: Any
) -> tuple[nn.Module, Inputs]:
    import transformers  # an optional dependency

    made = getattr(transformers, config)(**options)
    return getattr(transformers, model)(made), inputs()


def _text(model: str, config: str, written: str | None = None, **options: Any) -> Case:
    build = functools.partial(_hf, model, config, _encoder_ids, vocab_size=100, **options)
    return Case(build, written)


def _encoder_ids() -> Inputs:
    return {"input_ids": _ids()}


def _both_ends() -> Inputs:
    return {"input_ids": _ids(), "decoder_input_ids": _ids()}


def _pixels() -> Inputs:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def _clip() -> tuple[nn.Module, Inputs]:
    text = {"vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 97}
    both = {"text_config": {**text, **_SIZES}, "vision_config": {**_SIZES, **_IMAGES}}
    return _hf("CLIPModel", "CLIPConfig", _ids_and_pixels, **both, projection_dim=16)


def _ids_and_pixels() -> Inputs:
    return {"input_ids": _ids(), **_pixels()}


def _whisper() -> tuple[nn.Module, Inputs]:
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return _hf(
        "WhisperForConditionalGeneration", "WhisperConfig", _speech, vocab_size=100, **_SEQ2SEQ,
        num_mel_bins=8, max_source_positions=16, **tokens,
    )  # fmt: skip


def _speech() -> Inputs:
    return {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": _ids()}


def _wav2vec2() -> tuple[nn.Module, Inputs]:
    return _hf(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", lambda: {"input_values": torch.randn(2, 800)},
        vocab_size=100, **_SIZES, conv_dim=[8, 8], conv_stride=[5, 2], conv_kernel=[10, 3],
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, num_feat_extract_layers=2,
        mask_time_prob=0.0,
    )  # fmt: skip


HUGGING_FACE = {
    "bert": _text("BertForMaskedLM", "BertConfig", **_SIZES),
    "roberta": _text("RobertaForMaskedLM", "RobertaConfig", **_SIZES),
    "distilbert": _text(
        "DistilBertForMaskedLM", "DistilBertConfig", dim=32, n_layers=2, n_heads=4, hidden_dim=64
    ),
    "albert": _text("AlbertForMaskedLM", "AlbertConfig", "tanh", **_SIZES, embedding_size=16),
    "gpt2": _text("GPT2LMHeadModel", "GPT2Config", "tanh", **_GPT),
    "gptj": _text("GPTJForCausalLM", "GPTJConfig", "tanh", **_GPT, rotary_dim=4),
    "gpt_neox": _text("GPTNeoXForCausalLM", "GPTNeoXConfig", **_SIZES),
    "opt": _text(
        "OPTForCausalLM", "OPTConfig", hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=32,
    ),
    "bloom": _text("BloomForCausalLM", "BloomConfig", "tanh", hidden_size=32, n_layer=2, n_head=4),
    "llama": _text("LlamaForCausalLM", "LlamaConfig", **_SIZES),
    "qwen2": _text("Qwen2ForCausalLM", "Qwen2Config", **_SIZES, num_key_value_heads=2),
    "mistral": _text("MistralForCausalLM", "MistralConfig", **_SIZES, num_key_value_heads=2),
    "mixtral": _text(
        "MixtralForCausalLM", "MixtralConfig", **_SIZES, num_key_value_heads=2, num_local_experts=2
    ),
    "gemma2": _text(
        "Gemma2ForCausalLM", "Gemma2Config", **_SIZES, num_key_value_heads=2, head_dim=8
    ),
    "phi": _text("PhiForCausalLM", "PhiConfig", "tanh", **_SIZES),
    "mamba": _text(
        "MambaForCausalLM", "MambaConfig", hidden_size=32, num_hidden_layers=2, state_size=4
    ),
    "t5": Case(functools.partial(
        _hf, "T5ForConditionalGeneration", "T5Config", _both_ends, vocab_size=100, **_T5
    )),
    "t5-gated": Case(functools.partial(
        _hf, "T5ForConditionalGeneration", "T5Config", _both_ends, vocab_size=100, **_T5,
        feed_forward_proj="gated-gelu",
    ), "tanh"),
    "bart": Case(functools.partial(
        _hf, "BartForConditionalGeneration", "BartConfig", _both_ends, vocab_size=100, **_SEQ2SEQ
    )),
    "vit": Case(functools.partial(
        _hf, "ViTForImageClassification", "ViTConfig", _pixels, **_SIZES, **_IMAGES
    )),
    "convnext": Case(functools.partial(
        _hf, "ConvNextForImageClassification", "ConvNextConfig", _pixels,
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1],
    )),
    "clip": Case(_clip, "sigmoid"),
    "whisper": Case(_whisper),
    "wav2vec2": Case(_wav2vec2),
}  # fmt: skip

QUICK_HUGGING_FACE = ("bert", "gpt2", "llama", "t5", "clip", "whisper", "roberta")
