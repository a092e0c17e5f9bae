"""The demo's scorer before training: a LLaVA of 1.3 million parameters, saved as an ordinary Hugging Face folder.

CLIP vision (patch 16 on 32 pixels, so four image tokens), a two-layer Llama, a byte-level BPE of its own, the stock
`LlavaProcessor` with a chat template. `AutoModelForImageTextToText` and `AutoProcessor` load the folder without remote code.
Patch 8 would give sixteen image tokens, which in two minutes do not learn to look: the loss stays where text alone brings it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_SIDE_PX = 32
PATCH_SIDE_PX = 16
IMAGE_TOKENS = (IMAGE_SIDE_PX // PATCH_SIDE_PX) ** 2
# The ground of the pictures is pale: this brings it near zero and the ink to about -2.5.
PIXEL_MEAN, PIXEL_STD = 0.9, 1 / 3

_PAD, _END, _USER, _ASSISTANT, _IMAGE = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<image>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_processor(texts: Iterable[str], vocabulary_size: int = 1024) -> LlavaProcessor:
    """A stock `LlavaProcessor` whose byte-level BPE has learned from `texts`; any caption can be encoded and decoded."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[_PAD, _END, _USER, _ASSISTANT, _IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=_PAD,
        eos_token=_END,
        additional_special_tokens=[_USER, _ASSISTANT],
        extra_special_tokens={"image_token": _IMAGE},
        padding_side="right",
        model_max_length=512,
    )
    image_processor = CLIPImageProcessorPil(
        size={"height": IMAGE_SIDE_PX, "width": IMAGE_SIDE_PX},
        do_center_crop=False,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIDE_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """A model for `processor` with the initial weights of `seed`, in fp32, training mode."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIDE_PX,
        patch_size=PATCH_SIDE_PX,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    _initialise(model)
    model.train()
    return model


@torch.no_grad()
def _initialise(model: LlavaForConditionalGeneration) -> None:
    """Weights that learn faster than the stock ones, which suit models a thousand times larger.

    Linear layers have the standard deviation fan_in^-1/2, those that write into the residual stream half of it.
    """
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(parameter, std=0.05)
        elif "position_embedding" in name:
            nn.init.normal_(parameter, std=0.5)
        elif "patch_embedding" in name:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif parameter.dim() == 2 and ("language_model" in name or "projector" in name):
            half = 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            nn.init.normal_(parameter, std=half * parameter.shape[1] ** -0.5)
