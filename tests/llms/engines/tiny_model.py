"""A tiny chat model with random weights, as a folder of the Hub's form and as a GGUF file.

It speaks gibberish of plain letters, the same for the same seed, and seldom ends by itself. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

N_TOKENS = 400
N_CONTEXT = 1024
HIDDEN, HEAD, N_KV_HEADS, N_LAYERS, INNER = 128, 64, 1, 2, 256
PAD, BOS, START, END = "<|pad|>", "<|bos|>", "<|start|>", "<|end|>"
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|start|>' + message['role'] + '\\n' + message['content'] + '<|end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start|>assistant\\n' }}{%- endif -%}"
)


def make_tiny_model(folder: Path) -> Path:
    """Write the model with its tokenizer and chat template into a folder."""
    tokenizer = _make_tokenizer()
    tokenizer.save_pretrained(folder)
    _make_network(tokenizer).save_pretrained(folder)
    return folder


def _sentences() -> Iterator[str]:
    for parts in product(
        ("The model", "A reader", "One gas", "This row"),
        ("names", "rates", "asks for"),
        ("two uses", "a list"),
    ):
        yield f"{' '.join(parts)}, and then it ends."
    for number in range(100):
        yield json.dumps({"id": number, "name": f"item {number}", "ok": number % 2 == 0})
    yield from ("system\n", "user\n", "assistant\n", "café, 3 × 4; 日本語; привет 🦜")


def _make_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_TOKENS,
        special_tokens=[PAD, BOS, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_sentences(), trainer)
    assert core.get_vocab_size() == N_TOKENS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=END, model_max_length=N_CONTEXT
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _make_network(tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=N_TOKENS,
        hidden_size=HIDDEN,
        head_dim=HEAD,
        intermediate_size=INNER,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=HIDDEN // HEAD,
        num_key_value_heads=N_KV_HEADS,
        max_position_embeddings=N_CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        output = model.get_output_embeddings().weight
        output.mul_(8.0)  # the best token is clearly the best, in every engine
        for token in range(N_TOKENS):
            text = tokenizer.decode([token])
            if not (text.isascii() and text.isprintable()) or text in (PAD, BOS, START):
                output[token] = 0.0  # is never the best
    return model.to(torch.float32).eval()


def write_gguf(folder: Path, path: Path) -> Path:
    """Write the model of a folder as a GGUF file, for llama.cpp."""
    import gguf
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    core = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(N_CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HIDDEN // HEAD)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(N_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_token_list(tokens)
    special = {PAD, BOS, START, END}
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in special else kinds.NORMAL for token in tokens])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in core["model"]["merges"]]
    )
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_gguf_name(name), _gguf_weights(name, tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def _gguf_name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_PARTS[part.removesuffix('.weight')]}.weight"


def _gguf_weights(name: str, weights: Any) -> Any:
    """Return weights as llama.cpp has them: it rotates pairs of neighbours, Transformers the two halves of a head."""
    n_heads = {"q_proj": HIDDEN // HEAD, "k_proj": N_KV_HEADS}.get(name.split(".")[-2])
    if n_heads is None:
        return weights
    halves = weights.reshape(n_heads, 2, weights.shape[0] // n_heads // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)
