"""Chat templates of the family, as their checkpoints have them."""

PHI3_MINI = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PHI3_MINI_FIRST = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}"
    "{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}"
    "{% endif %}{% endfor %}"
)

PHI35_MINI = PHI3_MINI.replace(
    "message['role'] == 'system' %}", "message['role'] == 'system' and message['content'] %}"
)

PHI3_MEDIUM = PHI3_MINI_FIRST.removeprefix("{{ bos_token }}")

PHI3_SMALL = (
    "{{ bos_token }}{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + "
    "message['content'] + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PHI4_FIRST = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + "
    "'<|im_end|><|im_start|>assistant<|im_sep|>'}}{% elif (message['role'] == 'assistant') %}"
    "{{message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
)

PHI4 = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'user') %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'assistant') %}"
    "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

PHI4_MINI = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and "
    "message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + "
    "'<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)

# The published prompt is longer. It stands in place of every turn once the first is the system's.
_REASONING_PROMPT = (
    "{{'<|im_start|>system<|im_sep|>You are Phi, a language model trained by Microsoft to help "
    "users. Use: <think> {Thought section} </think> {Solution section}.<|im_end|>'}}"
)

PHI4_REASONING = (
    "{% if messages|length == 0 or messages[0]['role'] != 'system' %}"
    + _REASONING_PROMPT
    + "{% endif %}{% for message in messages %}{% if messages[0]['role'] == 'system' %}"
    + _REASONING_PROMPT
    + "{% elif message['role'] == 'user' %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

PHI4_MINI_REASONING = (
    "{{ '<|system|>Your name is Phi, an AI math expert developed by Microsoft.' }}"
    "{% for message in messages %}{% if message['role'] == 'system' %} {{ message['content'] }}"
    "{% if 'tools' in message and message['tools'] is not none %}"
    "{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}{% endif %}{% endfor %}"
    "{{ '<|end|>' }}{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)

# Not of the family: uses much of what templates of fine-tunes use.
ELABORATE = """\
{%- macro turn(role, text='') -%}
    {{- '<' ~ role ~ '>' ~ text | trim ~ '</' ~ role ~ '>' ~ '\\n' -}}
{%- endmacro -%}
{%- set ns = namespace(last='', seen=[], count=0) -%}
{%- if messages[0].role == 'system' -%}
    {%- set rest = messages[1:] -%}
    {{- turn('system', messages[0].content | upper) -}}
{%- else -%}
    {%- set rest = messages -%}
{%- endif -%}
{% for message in rest if message.content is string %}
    {%- if message.role == ns.last -%}
        {{- raise_exception('Conversation roles must alternate, got two of ' ~ message.role) -}}
    {%- endif -%}
    {%- set ns.last = message['role'] -%}
    {%- set ns.seen = ns.seen + [message.role] -%}
    {%- set ns.count = ns.count + message.content | length -%}
    {%- set text = message.content.split('</think>')[-1].lstrip('\\n').replace('\\t', ' ') -%}
    {% generation %}
    {{- turn(message.role, text) -}}
    {% endgeneration %}
    {%- if loop.index0 >= 6 -%}{%- break -%}{%- endif -%}
    {%- if loop.last and message.role not in ('user', 'assistant') -%}{{- 'odd' -}}{%- endif -%}
    {{- loop.index ~ '/' ~ loop.length ~ loop.cycle('.', ';') -}}
{% endfor %}
{{- {'roles': ns.seen, 'é"<': [1, 2.5, none, true], 'count': ns.count} | tojson }}
{% set block %}
{% for i in range(3) %}{{ i * 2 }},{% endfor %}
{% endset %}
{{ block | replace(',', ';') }}
{{- rest | map(attribute='role') | unique | join('-') }}
{{ rest | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }}
{{ messages[-1].content[::-1][:5] if not add_generation_prompt else eos_token }} {{ tools is none }}
{{ messages | tojson(indent=2) if messages | length < 3 }}
"""

FAMILY = {
    "phi-3-mini": PHI3_MINI,
    "phi-3-mini-first": PHI3_MINI_FIRST,
    "phi-3.5-mini": PHI35_MINI,
    "phi-3-medium": PHI3_MEDIUM,
    "phi-3-small": PHI3_SMALL,
    "phi-4-first": PHI4_FIRST,
    "phi-4": PHI4,
    "phi-4-reasoning": PHI4_REASONING,
    "phi-4-mini": PHI4_MINI,
    "phi-4-mini-reasoning": PHI4_MINI_REASONING,
}
