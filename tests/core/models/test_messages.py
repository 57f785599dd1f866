import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from stx_core.errors import ModelError
from stx_core.models.messages import message_format, tokenize_as_messages

WORDS = ["[UNK]", "[PAD]", "<s>", "sys", "q", "d", "answer", ":", "a", "b", "c", "0", "1", "2", "3"]
# Writes the start token itself, then each message, then a fixed ending of two tokens.
TEMPLATE = (
    "<s> {% for m in messages %}"
    "{{ {'system': 'sys', 'query': 'q', 'document': 'd'}[m.role] }} {{ m.content }} "
    "{% endfor %}answer :"
)
STRUCTURED = TEMPLATE.replace("m.content", "m.content[0].text")


def tokenizer(template, side="right", names=("input_ids", "attention_mask")):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # As many tokenizers do for plain texts: a template writes its start token itself.
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", WORDS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        bos_token="<s>",
        chat_template=template,
        truncation_side=side,
        model_input_names=list(names),
    )


def words_of(tokens):
    parts = [
        tokens.ids[start:end]
        for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]
    return [" ".join(WORDS[i] for i in part) for part in parts]


def test_a_pair_becomes_one_message_per_role():
    tokens = tokenize_as_messages(tokenizer(TEMPLATE), [("a b", "c"), ("b", "a a")])

    assert words_of(tokens) == ["<s> q a b d c answer :", "<s> q b d a a answer :"]
    assert tokens.truncated.tolist() == [False, False]
    assert tokens.type_ids is None


def test_the_prompt_becomes_a_system_message():
    tokens = tokenize_as_messages(tokenizer(TEMPLATE), [("a", "b")], prompt="c c")

    assert words_of(tokens) == ["<s> sys c c q a d b answer :"]


def test_structured_content_is_a_list_of_parts():
    tokens = tokenize_as_messages(tokenizer(STRUCTURED), [("a", "b")], content="structured")

    assert words_of(tokens) == ["<s> q a d b answer :"]


def test_truncation_keeps_the_fixed_ending_of_the_template():
    pairs = [("a b c", "a b c a b c"), ("a", "b")]

    tokens = tokenize_as_messages(tokenizer(TEMPLATE), pairs, max_length=8)

    assert words_of(tokens) == ["<s> q a b c d answer :", "<s> q a d b answer :"]
    assert tokens.truncated.tolist() == [True, False]


def test_truncation_on_the_left_keeps_the_fixed_ending_too():
    tokens = tokenize_as_messages(
        tokenizer(TEMPLATE, side="left"), [("a b c", "a b c a b c")], max_length=5
    )

    assert words_of(tokens) == ["a b c answer :"]


def test_a_limit_shorter_than_the_ending_keeps_the_end_of_it():
    tokens = tokenize_as_messages(tokenizer(TEMPLATE), [("a", "b")], max_length=1)

    assert words_of(tokens) == [":"]


def test_segment_ids_are_zero_where_the_model_takes_them():
    names = ("input_ids", "token_type_ids", "attention_mask")

    tokens = tokenize_as_messages(tokenizer(TEMPLATE, names=names), [("a", "b")])

    assert tokens.type_ids.tolist() == [0] * len(tokens.ids)


def test_no_pairs_give_no_tokens():
    assert len(tokenize_as_messages(tokenizer(TEMPLATE), [])) == 0


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_template_that_drops_a_role_is_refused(role):
    deaf = f"{{% for m in messages if m.role != '{role}' %}}{{{{ m.content }}}}{{% endfor %}}"

    with pytest.raises(ModelError, match=f"leaves out the {role}; give the tokenizer"):
        tokenize_as_messages(tokenizer(deaf), [("a", "b")])


def test_a_template_that_raises_is_refused_with_its_message():
    strict = "{{ raise_exception('Only user and assistant roles are supported!') }}"

    with pytest.raises(ModelError, match=r"cannot render .* \(Only user and assistant roles"):
        tokenize_as_messages(tokenizer(strict), [("a", "b")])


def test_the_content_format_is_read_off_the_template():
    assert message_format(TEMPLATE, "qwen3") == "flat"
    assert message_format(STRUCTURED, "qwen3") == "structured"
    assert message_format("{{ m['type'] }}", "qwen3") == "structured"
    assert message_format("{{ m['type'] }}", "gpt_oss") == "flat"
