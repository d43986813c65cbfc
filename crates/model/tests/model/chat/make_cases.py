"""Writes cases.json: what `transformers` makes of the templates beside this script. Run it with transformers 5.19."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Wie ist das Wetter in \"Köln\" & <Umgebung>?\n\u00ad\u2028",
        "parameters": {"type": "object", "properties": {"days": {"type": "integer", "default": 1.0}, "a": []}, "required": []},
        "limits": [0, -3, 1e-07, 2.5e20, None, True, {}],
    },
}
user = lambda text: {"role": "user", "content": text}
assistant = lambda text, **more: {"role": "assistant", "content": text, **more}
system = lambda text: {"role": "system", "content": text}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"days": 2, "a": ["ü", False]}}}
TALK = [
    system(" Be brief. "),
    user("2 + 2?"),
    assistant("<think>\neasy\n</think>\n\n4"),
    user("<result>no question</result>"),
    assistant("<think>\nhm\n</think>\n\nfour"),
    assistant(None, tool_calls=[CALL, {"name": "later", "arguments": "{}"}], thought=" why "),
]
CASES = [
    ("reasoning", [user("Hallo, Zoë!")], {}, True),
    ("reasoning", [user("Hi")], {"enable_thinking": False}, True),
    ("reasoning", [user("Hi")], {"enable_thinking": True}, True),
    ("reasoning", TALK, {}, False),
    ("reasoning", TALK, {"tools": [TOOL]}, True),
    ("reasoning", [user(" spaces \n"), assistant("kept")], {"tools": [TOOL, TOOL]}, False),
    ("strict", [user("a")], {"date_string": "1 Jan"}, True),
    ("strict", [system("S"), user(" a "), assistant("b"), user([{"type": "text", "text": "x"}, {"type": "image"}, {"type": "text"}])],
     {"date_string": "1 Jan", "flag": True, "options": {"b": 1, "a": 2.0}}, True),
    ("strict", [user("a"), user("b")], {"date_string": "1 Jan"}, True),
    ("strict", [assistant("a")], {"date_string": "1 Jan"}, True),
]


def expected(template, messages, args, prompt):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)
    try:
        return {
            "text": tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=prompt, **args
            )
        }
    except Exception as error:
        return {"raises": str(error)}


cases = []
for name, messages, args, prompt in CASES:
    template = (HERE / f"{name}.jinja").read_text()
    case = {"template": name, "messages": messages, "args": args, "add_generation_prompt": prompt}
    cases.append(case | expected(template, messages, args, prompt))
document = {"special_tokens": SPECIAL, "cases": cases}
(HERE / "cases.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
