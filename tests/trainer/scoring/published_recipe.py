"""The oracle: one sample at a time, by transformers' own processor, full logits, no batching and none of our code paths.

The answer span is found in another way than the product's: the ids of the whole conversation against those of the same
conversation cut off before the answer (valid where no merge crosses that border, as in ChatML).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image


def nll_of_caption(model: Any, processor: Any, images: Sequence[bytes], prompt: str, caption: str) -> tuple[float, int]:
    """Sum of the NLL (nats) of caption and end token, and their number."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
    content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": prompt}]
    question = [{"role": "user", "content": content}]
    whole = [*question, {"role": "assistant", "content": [{"type": "text", "text": caption}]}]
    before = processor.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    text = processor.apply_chat_template(whole, tokenize=False)
    end = text.rindex("<|im_end|>") + len("<|im_end|>")
    inputs = processor(text=[text[:end]], images=pictures or None, return_tensors="pt")
    n_before = processor(text=[before], images=pictures or None, return_tensors="pt")["input_ids"].shape[1]
    with torch.no_grad():
        logits = model(**inputs).logits[0].double()
    targets = inputs["input_ids"][0, n_before:]
    log_p = torch.log_softmax(logits[n_before - 1 : -1], dim=-1)
    return float(-log_p.gather(1, targets[:, None]).sum()), len(targets)
