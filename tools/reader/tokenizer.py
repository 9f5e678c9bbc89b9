"""The reader's tokenizer: byte-level BPE whose merges know the phrasings but no name as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .context import ContextMaker, Mix
from .names import Inventory

SPECIALS = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set role = message['role'] if message['role'] in ['system', 'assistant'] else 'user' -%}"
    "{{- '<|' + role + '|> ' + message['content'] | trim + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def _corpus(seed: int, contexts: int) -> Iterator[str]:
    """Yields generated text whose names are all invented."""
    rng = Random(seed)
    maker = ContextMaker(Inventory(invented_share=1.0))
    mix = Mix(10, chatter=0.6, two_hop=0.4, absent=0.2, wrapped=0.3)
    for _ in range(contexts):
        context = maker.make(rng, mix, 6)
        yield " " + context.system()
        for question, answer, _kind in context.questions:
            yield f" {question}"
            yield f" {answer}"


def train_tokenizer(seed: int, size: int = 2048, contexts: int = 9000) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on generated text.

    Args:
        seed: Seed of the generated text.
        size: Vocabulary size, special tokens included.
        contexts: Number of contexts to generate.

    Returns:
        The tokenizer with its chat template.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    # A reply begins with a space, since words are tokenised alike everywhere; decoded text does not show it.
    inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(_corpus(seed, contexts), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the tokenizer files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
