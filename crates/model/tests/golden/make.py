"""Makes the golden files beside it: small random checkpoints of unusual shape, and what `transformers` computes with them.

    python make.py

Made with torch 2.11.0, transformers 5.19.0, safetensors 0.8.0 and tokenizers 0.23.3, in float32 on a CPU, with eager attention. Each
folder is a checkpoint as people have it; `logits.safetensors` in it holds `ids` [B, T] and `logits` [B, T, V]. `transformers`
reads the very files that the test reads, so config.json is checked with the rest. A note beside each case says what is unusual.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
ROWS, TOKENS = 2, 40

# A context of 16 stretched to 128, at a base where fast, medium and slow pairs all occur.
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
COMMON = {"hidden_act": "silu", "max_position_embeddings": 128, "num_hidden_layers": 2, "rms_norm_eps": 1e-5}

CASES = {
    # Groups of 3, heads wider than hidden / heads, llama3 scaling under the older name, bf16, EOS as a list.
    "llama-scaled": (
        torch.bfloat16,
        1,
        {
            "model_type": "llama",
            "vocab_size": 61,
            "hidden_size": 24,
            "intermediate_size": 44,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "rope_theta": 200.0,
            "rope_scaling": {"rope_type": "llama3", **LLAMA3},
            "tie_word_embeddings": False,
            "eos_token_id": [2, 7],
        },
    ),
    # The same scaling under the newer name with the base inside, one key head for all queries, two shards, f32.
    "llama-shards": (
        torch.float32,
        2,
        {
            "model_type": "llama",
            "vocab_size": 53,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 90.0, **LLAMA3},
            "tie_word_embeddings": True,
            "eos_token_id": 2,
        },
    ),
    # Biases everywhere, no key for key heads (as many as query heads) nor for their width, linear scaling by its oldest name, f16.
    "llama-biases": (
        torch.float16,
        1,
        {
            "model_type": "llama",
            "vocab_size": 47,
            "hidden_size": 30,
            "intermediate_size": 50,
            "num_attention_heads": 5,
            "head_dim": None,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_scaling": {"type": "linear", "factor": 3.0},
            "tie_word_embeddings": True,
            "eos_token_id": 2,
        },
    ),
    # A vocabulary padded from the 57 ids of its tokenizer.json to 64, groups of 7, bf16.
    "qwen2-padded": (
        torch.bfloat16,
        1,
        {
            "model_type": "qwen2",
            "vocab_size": 64,
            "hidden_size": 28,
            "intermediate_size": 36,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 32,
            "max_window_layers": 1,
            "eos_token_id": 5,
        },
    ),
    # Untied, groups of 2, a head width of its own that the class has no key for, three shards in f16, EOS in generation_config.json.
    "qwen2-shards": (
        torch.float16,
        3,
        {
            "model_type": "qwen2",
            "vocab_size": 59,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
            "tie_word_embeddings": False,
        },
    ),
    # Groups of 3, narrow heads, biases in attention, the base under its newer place, bf16.
    "qwen3-biases": (
        torch.bfloat16,
        1,
        {
            "model_type": "qwen3",
            "vocab_size": 67,
            "hidden_size": 36,
            "intermediate_size": 52,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
            "layer_types": ["full_attention", "full_attention"],
            "tie_word_embeddings": True,
            "eos_token_id": [1, 66],
        },
    ),
    # No key for the width of heads (128, whatever the hidden size is), untied, f32.
    "qwen3-wide": (
        torch.float32,
        1,
        {
            "model_type": "qwen3",
            "vocab_size": 43,
            "hidden_size": 14,
            "intermediate_size": 22,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 10000,
            "tie_word_embeddings": False,
            "eos_token_id": 3,
        },
    ),
}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def weights(config, dtype):
    """Weights that make attention sharp and logits large, norms that are not 1 and biases that are not 0."""
    state = AutoModelForCausalLM.from_config(config).state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    for name in sorted(state):
        shape = state[name].shape
        if name.endswith(".bias"):
            value = 0.5 * torch.randn(shape)
        elif len(shape) == 1:
            value = 0.5 + torch.rand(shape)
        elif name == "model.embed_tokens.weight":
            value = torch.randn(shape)
        else:
            value = (4.0 if name == "lm_head.weight" else 1.3) * torch.randn(shape) / shape[1] ** 0.5
        state[name] = value.to(dtype)
    return state


def save_weights(folder, state, shards):
    if shards == 1:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        return
    names = sorted(state)
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: state[name] for name in names[shard::shards]}
        save_file(part, folder / file, {"format": "pt"})
        index.update(dict.fromkeys(part, file))
    total = sum(tensor.nbytes for tensor in state.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def word_tokenizer(words):
    vocab = {f"w{i}": i for i in range(words)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    }


def make(seed, name, dtype, shards, keys):
    torch.manual_seed(seed)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_json(folder / "config.json", {**COMMON, **keys, "torch_dtype": str(dtype).removeprefix("torch.")})
    save_weights(folder, weights(AutoConfig.from_pretrained(folder), dtype), shards)
    real = keys["vocab_size"]
    if name == "qwen2-padded":
        real = 57
        write_json(folder / "tokenizer.json", word_tokenizer(real))
    if name == "qwen2-shards":
        write_json(folder / "generation_config.json", {"eos_token_id": [58, 4]})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(real, (ROWS, TOKENS))
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    print(f"{name}: logits up to {logits.abs().max():.1f}, standard deviation {logits.std():.1f}")
    save_file({"ids": ids.to(torch.int32), "logits": logits}, folder / "logits.safetensors")


for seed, (name, case) in enumerate(CASES.items()):
    make(seed, name, *case)
