"""The answer span: exact in every family, and no caption can write a control token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, VICUNA, build_tokenizer
from vlmsel_trainer.vlm.chat_template import MAX_TEXT_CHARACTERS, ChatTemplate, TemplateError, Tokens
from vlmsel_trainer.vlm.conversations import (
    ConversationError,
    Turn,
    caption_turns,
    parse_conversation,
    without_images,
)
from vlmsel_trainer.vlm.load import LoadedModel

MARKERS = ["<image>", "<|image_pad|>", "<|im_end|>", "<|im_start|>", "<|im_start|>assistant\n", "<|vision_start|>"]


class BareProcessor:
    """A tokenizer with a chat template, for templates that no model here has."""

    def __init__(self, template: str, image_token: str = "<image>") -> None:
        self.tokenizer = build_tokenizer(image_token)
        self.chat_template = template
        self.image_token = image_token

    def apply_chat_template(self, messages: list[dict[str, Any]], tokenize: bool) -> str:
        assert not tokenize
        rendered = self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, tokenize=False)
        assert isinstance(rendered, str)
        return rendered


def labelled_text(template: ChatTemplate, tokens: Tokens) -> str:
    ids = [token for token, label in zip(tokens.ids, tokens.labels, strict=True) if label]
    return str(template._encoder._tokenizer.decode(ids, skip_special_tokens=False))


@pytest.fixture(params=sorted(FAMILIES))
def template(request: pytest.FixtureRequest, family: Callable[[str], LoadedModel]) -> ChatTemplate:
    return ChatTemplate(family(request.param).processor)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    caption=st.lists(st.one_of(st.text(max_size=12), st.sampled_from(MARKERS)), max_size=5).map("".join),
    n_images=st.integers(0, 3),
)
def test_labels_are_the_caption_and_its_end(template: ChatTemplate, caption: str, n_images: int) -> None:
    tokens = template.tokenise(caption_turns("What is it?", caption, n_images))
    # No caption adds an image, and exactly one end token is scored: the template's own.
    assert len(tokens.image_positions) == n_images
    scored = [token for token, label in zip(tokens.ids, tokens.labels, strict=True) if label]
    assert [token for token in scored if token in template._encoder.control_ids] == [
        template._encoder.id_of("<|im_end|>")
    ]
    text = labelled_text(template, tokens).removesuffix("<|im_end|>")
    # The Vicuna template trims, and its first answer token covers the space that it writes before an answer.
    assert text.strip() == caption.strip()


@pytest.mark.parametrize("name", ["llava_qwen2", "idefics3", "qwen2_5_vl"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caption=st.text(max_size=40).filter(lambda text: "<" not in text))
def test_ids_are_the_processors_own(family: Callable[[str], LoadedModel], name: str, caption: str) -> None:
    processor = family(name).processor
    template = ChatTemplate(processor)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": caption}]},
    ]
    theirs = processor.tokenizer(processor.apply_chat_template(messages, tokenize=False))["input_ids"]
    assert list(template.tokenise(caption_turns("What is it?", caption, 1)).ids) == theirs


def test_markers_in_captions_read_as_the_sanitizing_template_reads_them(family: Callable[[str], LoadedModel]) -> None:
    processor = family("llava_qwen2").processor
    template = ChatTemplate(processor)
    for caption in ("a <image> here", "<|im_end|>", "x<|im_start|>assistant\ny", "<image><image>"):
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": caption}]},
        ]
        try:
            theirs = processor.tokenizer.apply_chat_template(
                messages,
                chat_template=processor.chat_template,
                tokenize=True,
                return_dict=True,
                sanitize_control_tokens=True,
            )["input_ids"]
        except (TypeError, ValueError):
            pytest.skip("this transformers has no sanitize_control_tokens")
        ours = template.tokenise(caption_turns("What is it?", caption, 0)).ids
        decode = processor.tokenizer.decode
        assert decode(ours) == decode(theirs)
        assert list(ours).count(template.image_token_id) == list(theirs).count(template.image_token_id) == 0


def test_empty_caption_has_its_end_token(template: ChatTemplate) -> None:
    tokens = template.tokenise(caption_turns("What is it?", "", 1))
    assert labelled_text(template, tokens) == "<|im_end|>"


def test_end_token_can_be_left_out(family: Callable[[str], LoadedModel]) -> None:
    template = ChatTemplate(family("llava_qwen2").processor, count_end_token=False)
    assert labelled_text(template, template.tokenise(caption_turns("?", "a bird", 1))) == "a bird"


def test_trailing_newline_of_chatml_is_never_scored(family: Callable[[str], LoadedModel]) -> None:
    template = ChatTemplate(family("llava_qwen2").processor)
    tokens = template.tokenise(caption_turns("?", "a bird", 1))
    assert tokens.labels[-1] is False
    assert tokens.labels[-2] is True


def test_wepoints_tokenises_the_answer_alone(family: Callable[[str], LoadedModel]) -> None:
    processor = family("llava_qwen2").processor
    template = ChatTemplate(processor, separate_answers=True)
    caption = "\n two  dogs<image>"
    tokens = template.tokenise(caption_turns("?", caption, 1))
    scored = [token for token, label in zip(tokens.ids, tokens.labels, strict=True) if label]
    alone = processor.tokenizer(caption, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert scored == [*alone, template._encoder.id_of("<|im_end|>")]


def test_every_assistant_turn_is_scored_and_no_other(template: ChatTemplate) -> None:
    turns = (
        Turn("user", (None, "first question")),
        Turn("assistant", ("alpha",)),
        Turn("user", ("second question",)),
        Turn("assistant", ("omega",)),
    )
    text = labelled_text(template, template.tokenise(turns)).replace("<|im_end|>", " ").split()
    assert text == ["alpha", "omega"]


def test_truncation_cuts_text_and_says_so(template: ChatTemplate) -> None:
    turns = caption_turns("?", "many words " * 50, 2)
    whole = template.tokenise(turns)
    cut = template.tokenise(turns, max_text_tokens=40)
    assert cut.truncated
    assert not whole.truncated
    assert len(cut.ids) == 40 + 2
    assert cut.ids == whole.ids[:42]
    assert cut.labels == whole.labels[:42]
    exact = template.tokenise(turns, max_text_tokens=len(whole.ids) - 2)
    assert exact == whole


def test_truncation_before_an_image_leaves_nothing_to_score(template: ChatTemplate) -> None:
    turns = (Turn("user", ("word " * 50, None)), Turn("assistant", ("a bird",)))
    assert not any(template.tokenise(turns, max_text_tokens=20).labels)


def test_endless_caption_is_cut_before_it_is_tokenised(family: Callable[[str], LoadedModel]) -> None:
    template = ChatTemplate(family("llava_qwen2").processor)
    tokens = template.tokenise(caption_turns("?", " " * (MAX_TEXT_CHARACTERS + 1), 0), max_text_tokens=64)
    assert tokens.truncated


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "of 2 texts it wrote"),
        ("{{ messages[1]['content'][0]['text'] }}{{ messages[0]['content'][0]['text'] }}", "of 2 texts it wrote"),
        ("{{ raise_exception('no') }}", "no"),
    ],
)
def test_template_that_loses_texts_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(TemplateError, match=complaint):
        ChatTemplate(BareProcessor(source))


def test_template_that_loses_images_is_refused() -> None:
    source = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    template = ChatTemplate(BareProcessor(source))
    with pytest.raises(TemplateError, match="0 image placeholders for 1 images"):
        template.tokenise(caption_turns("?", "a", 1))


def test_space_that_the_template_writes_belongs_to_the_first_answer_token() -> None:
    template = ChatTemplate(BareProcessor(VICUNA))
    tokens = template.tokenise(caption_turns("What?", "  a bird ", 0))
    assert labelled_text(template, tokens) == " a bird<|im_end|>"


# Conversations


def test_llava_placeholders_stand_where_they_are_written() -> None:
    document = (
        '[{"from":"human","value":"compare <image>\\nwith\\n<image>"},{"from":"gpt","value":"<image> is text here"}]'
    )
    turns = parse_conversation(document, 2)
    assert turns == (Turn("user", ("compare", None, "with", None)), Turn("assistant", ("<image> is text here",)))


def test_images_without_placeholder_open_the_first_user_turn() -> None:
    document = '{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}'
    assert parse_conversation(document, 1)[1] == Turn("user", (None, "q"))


def test_without_images_keeps_the_turns() -> None:
    turns = caption_turns("What?", "a", 2)
    assert without_images(turns) == caption_turns("What?", "a", 0)


@pytest.mark.parametrize(
    "document",
    [
        "not json",
        "[]",
        "3",
        '[{"from":"human","value":"<image>"},{"from":"gpt","value":"a"}]',
        '[{"from":"nobody","value":"x"}]',
        '[{"from":"human","value":7}]',
        '[{"from":"human","value":"q"}]',
        "[" * 100_000,
    ],
)
def test_conversation_that_cannot_be_read_is_named(document: str) -> None:
    with pytest.raises(ConversationError):
        parse_conversation(document, 0)
