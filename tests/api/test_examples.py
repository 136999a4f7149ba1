"""The examples of transformers' Phi-3 page, and of its docstrings, with only the import changed.

Each script runs twice, with `LIBRARY` replaced by either name, and must leave the same behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.conftest import MakeCheckpoint

LABELS = ("O", "B-PER", "I-PER")

CHAT = """
from transformers import AutoTokenizer
from LIBRARY import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)

messages = [{"role": "user", "content": "Can you provide ways to eat bananas and dragonfruits?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")

outputs = model.generate(**inputs, max_new_tokens=32)
text = tokenizer.batch_decode(outputs)[0]
result = [text]
"""

CONFIGURATION = """
from LIBRARY import Phi3Config, Phi3Model

configuration = Phi3Config.from_pretrained(CHECKPOINT)
model = Phi3Model(configuration)
configuration = model.config
result = [configuration.hidden_size, model.num_parameters(), model.dtype]
"""

GENERATE = """
from transformers import AutoTokenizer
from LIBRARY import Phi3ForCausalLM

model = Phi3ForCausalLM.from_pretrained(CHECKPOINT)
tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)

prompt = "Hey, are you conscious? Can you talk to me?"
inputs = tokenizer(prompt, return_tensors="pt")

generate_ids = model.generate(inputs.input_ids, max_length=60)
result = tokenizer.batch_decode(
    generate_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
)
"""

SINGLE_LABEL = """
import torch
from transformers import AutoTokenizer
from LIBRARY import Phi3ForSequenceClassification

tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
model = Phi3ForSequenceClassification.from_pretrained(CHECKPOINT)
inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
predicted_class_id = logits.argmax().item()
num_labels = len(model.config.id2label)
model = Phi3ForSequenceClassification.from_pretrained(CHECKPOINT, num_labels=num_labels)
labels = torch.tensor([1])
loss = model(**inputs, labels=labels).loss
result = [model.config.id2label[predicted_class_id], round(loss.item(), 4)]
"""

MULTI_LABEL = """
import torch
from transformers import AutoTokenizer
from LIBRARY import Phi3ForSequenceClassification

tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
model = Phi3ForSequenceClassification.from_pretrained(
    CHECKPOINT, problem_type="multi_label_classification"
)
inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
predicted_class_ids = torch.arange(0, logits.shape[-1])[torch.sigmoid(logits).squeeze(dim=0) > 0.5]
num_labels = len(model.config.id2label)
model = Phi3ForSequenceClassification.from_pretrained(
    CHECKPOINT, num_labels=num_labels, problem_type="multi_label_classification"
)
labels = torch.sum(
    torch.nn.functional.one_hot(predicted_class_ids[None, :].clone(), num_classes=num_labels), dim=1
).to(torch.float)
loss = model(**inputs, labels=labels).loss
result = [labels.tolist(), round(loss.item(), 4)]
"""

TOKENS = """
import torch
from transformers import AutoTokenizer
from LIBRARY import Phi3ForTokenClassification

tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
model = Phi3ForTokenClassification.from_pretrained(CHECKPOINT)
inputs = tokenizer(
    "HuggingFace is a company based in Paris", add_special_tokens=False, return_tensors="pt"
)
with torch.no_grad():
    logits = model(**inputs).logits
predicted_token_class_ids = logits.argmax(-1)
predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]
labels = predicted_token_class_ids
loss = model(**inputs, labels=labels).loss
result = [predicted_tokens_classes, round(loss.item(), 2)]
"""

LOOP = """
import torch
from transformers import AutoTokenizer
from LIBRARY import AutoModelForCausalLM

tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, torch_dtype="auto").eval()
inputs = tokenizer(["Hello", "Good evening"], return_tensors="pt", padding=True).to(model.device)
attention_mask, next_ids, past, result = inputs.attention_mask, inputs.input_ids, None, []
with torch.inference_mode():
    for _ in range(8):
        outputs = model(
            next_ids, attention_mask=attention_mask, past_key_values=past, use_cache=True
        )
        past = outputs.past_key_values
        next_ids = outputs.logits[:, -1:].argmax(-1)
        attention_mask = torch.cat([attention_mask, torch.ones_like(next_ids)], dim=1)
        result.append(next_ids.tolist())
"""


def run(script: str, library: str, path: Path) -> Any:
    """What the script leaves in `result`."""
    source = script.replace("LIBRARY", library).replace("CHECKPOINT", repr(str(path)))
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(source, names)
    return names["result"]


@pytest.mark.parametrize(
    ("script", "architecture"),
    [
        (CHAT, "Phi3ForCausalLM"),
        (CONFIGURATION, "Phi3ForCausalLM"),
        (GENERATE, "Phi3ForCausalLM"),
        (SINGLE_LABEL, "Phi3ForSequenceClassification"),
        (MULTI_LABEL, "Phi3ForSequenceClassification"),
        (TOKENS, "Phi3ForTokenClassification"),
        (LOOP, "Phi3ForCausalLM"),
    ],
    ids=["chat", "configuration", "generate", "single-label", "multi-label", "tokens", "loop"],
)
def test_script_runs_with_only_the_import_changed(
    checkpoint: MakeCheckpoint, script: str, architecture: str
) -> None:
    classifies = architecture.endswith("Classification")
    path = checkpoint(architecture, **({"labels": LABELS} if classifies else {}))
    assert run(script, "phi3svc", path) == run(script, "transformers", path)


def test_page_as_it_was_written_for_transformers_4(checkpoint: MakeCheckpoint) -> None:
    """There a chat template gave a tensor; the page still passes its result whole."""
    path = checkpoint()
    page = CHAT.replace("**inputs", "inputs")
    assert run(page, "phi3svc", path) == run(CHAT, "transformers", path)
