"""A malicious template reaches nothing and ends soon."""

from __future__ import annotations

import resource
import time
from contextlib import suppress

import pytest

from phi3svc.errors import ConfigError, InvalidRequest
from phi3svc.text.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "x" * 1000}]

HUGE = "{% set s = 'a' * 499999 %}"
WIDE = "{% set t = ('x',) * 99999 %}"


def often(statements: str) -> str:
    return "{% for i in range(99) %}" + statements + "{% endfor %}"


ENDLESS = {
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "loops over text": "{% set s = 'x' * 99999 %}{% for a in s %}{% for b in s %}{% endfor %}"
    "{% endfor %}",
    "loops that filter": "{% for a in range(9999) %}{% for b in range(9999) if b < 0 %}"
    "{% endfor %}{% endfor %}",
    "a huge range": "{{ range(10 ** 9) | list }}",
    "repetition": "{{ 'x' * 10 ** 10 }}",
    "repetition from the left": "{{ 10 ** 10 * 'x' }}",
    "list repetition": "{{ [1] * 10 ** 10 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "power tower": "{% set ns = namespace(x=9) %}{% for i in range(99) %}"
    "{% set ns.x = ns.x ** 60 %}{% endfor %}",
    "float power": "{{ 9.0 ** (9 ** 9) }}",
    "multiplication": "{% set ns = namespace(x=9) %}{% for i in range(999) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "format width": "{{ '%99999999999d' % 1 }}",
    "format method": "{{ '{:>99999999999}'.format('') }}",
    "format filter": "{{ '%99999999999d' | format(1) }}",
    "centered": "{{ 'x'.center(10 ** 10) }}",
    "padded": "{{ 'x'.ljust(10 ** 10) ~ 'x'.zfill(10 ** 10) }}",
    "tabs": "{{ '\t'.expandtabs(10 ** 10) }}",
    "centre filter": "{{ 'x' | center(10 ** 10) }}",
    "indented": "{{ 'x\nx' | indent(10 ** 10) }}",
    "indented JSON": "{{ [[1]] | tojson(indent=10 ** 10) }}",
    "doubling by +": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by join": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "doubling by the join method": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x.join(['a', 'b', 'c']) %}{% endfor %}",
    "doubling by replace": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x.replace('x', 'xx') %}{% endfor %}",
    "doubling by a filter": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x | replace('x', 'xx') %}{% endfor %}",
    "doubling by blocks": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "nesting lists": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nesting dicts": "{% set ns = namespace(x=1) %}{% for i in range(99) %}"
    "{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
    "nesting by filters": "{% set ns = namespace(x=[1, 2]) %}{% for i in range(99) %}"
    "{% set ns.x = range(2) | map('replace', '0', ns.x) | list %}"
    "{% set ns.x = [0, 0] | map(attribute='nosuch', default=ns.x) | list %}{% endfor %}",
    "long text in a loop": "{% for i in range(99999) %}" + "x" * 60_000 + "{% endfor %}",
    "long text in a macro": "{% macro f() %}" + "x" * 50_000 + "{% endmacro %}"
    "{% for i in range(99999) %}{{ f() }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "bounded recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "copies": "{% set s = 'x' * 999999 %}{% for i in range(99999) %}{% set t = s[1:] %}"
    "{% endfor %}",
    "calls": "{% set s = 'x' * 999999 %}{% for i in range(99999) %}{% set t = s.upper() %}"
    "{% endfor %}",
    "sorting": "{% for i in range(9999) %}{% set t = range(9999) | sort %}{% endfor %}",
    "printing": "{% set s = 'x' * 99999 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
    "filter blocks": "{% for i in range(99999) %}{% filter upper %}"
    + "x" * 50_000
    + "{% endfilter %}"
    "{% endfor %}",
    "call blocks": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    "{% for i in range(99999) %}{% call f() %}" + "x" * 50_000 + "{% endcall %}{% endfor %}",
    "a constant part": "{{ ('x' * 9999999) * 9999 }}",
    # Few steps, each of them long: too much work only if the length counts.
    "searching text": HUGE + often("{% if 'ab' in s %}{% endif %}"),
    "searching text by a test": HUGE + often("{% if 'ab' is in s %}{% endif %}"),
    "searching text by a filter": HUGE + "{{ (['ab'] * 99) | select('in', s) | list }}",
    "searching text by a method": HUGE + often("{% set t = s.count('ab') %}"),
    "searching lists": "{% set s = range(9999) | list %}" + often("{% if 'x' in s %}{% endif %}"),
    "searching values": "{% set s = {'a': range(9999) | list} %}"
    + often("{% if 'x' in s.values() %}{% endif %}"),
    "searching text from the right": HUGE + "{{ s.rsplit(sep='b' * 99, maxsplit=1) | length }}",
    "searching ranges": often("{% if 'x' in range(99999) %}{% endif %}"),
    "comparing text": HUGE + often("{% if 'x' == s %}{% endif %}"),
    "comparing text from the left": HUGE + often("{% if s < 'x' %}{% endif %}"),
    "comparing by a test": HUGE + often("{% if 'x' is eq s %}{% endif %}"),
    "comparing by a filter": HUGE
    + "{% set l = [s] %}"
    + often("{% set t = l | reject('eq', 1) %}{% for x in t %}{% endfor %}"),
    "comparing by the loop": HUGE + often("{% if loop.changed(s) %}{% endif %}"),
    "comparing beginnings": WIDE + often("{% if 'a'.startswith(t) %}{% endif %}"),
    "long keys": WIDE + often("{% set x = {}[t] %}"),
    "long keys by a method": WIDE + often("{% set x = {}.get(t) %}"),
    "testing for case": HUGE + often("{% if s is lower %}{% endif %}"),
    "stripping many characters": HUGE + "{{ s.strip('b' * 49999 ~ 'a') }}",
    "trimming many characters": "{{ ('a' * 499999) | trim('b' * 49999 ~ 'a') }}",
    "reading numbers": HUGE + often("{% set t = s | int(0, 16) %}"),
    "dividing long numbers": "{% set n = ('f' * 9999) | int(0, 16) %}{{ n // n }}",
    "testing long numbers": "{% set n = ('f' * 9999) | int(0, 16) %}{{ n is divisibleby(n) }}",
    "subtracting long numbers": "{% set n = ('f' * 9999) | int(0, 16) %}{{ n - n }}",
}


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_work_and_memory_are_bounded(name: str) -> None:
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises((InvalidRequest, ConfigError)) as error:
        ChatTemplate(ENDLESS[name], {}).render(MESSAGES)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 256 << 10
    assert "\n" not in str(error.value)


FORBIDDEN = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ ('' | map(attribute='__class__') | list)[0] }}",
    "{{ messages | map(attribute='__class__.__init__') | list | first }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ lipsum.__globals__ }}",
    "{{ joiner('x') }}",
    "{{ dict(a=1) }}",
    "{{ namespace.__init__ }}",
    "{{ namespace().__init__.__globals__ }}",
    "{{ range.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__.co_filename }}",
    "{{ messages.append(messages) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].clear() }}",
    "{{ 'x'.encode() }}",
    "{{ 'x'.translate({}) }}",
    "{{ 'x'.format_map(messages[0]) }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | pprint }}",
    "{{ messages | random }}",
    "{{ messages | map('upper') }}",
    "{{ range }}",
    "{{ namespace() }}",
    "{{ [namespace()] }}",
    "{{ messages[0].get }}",
    "{{ (1).bit_length() }}",
    "{{ messages[0].role.join }}",
    "{{ loop }}",
    "{% for i in range(2) %}{{ loop }}{% endfor %}",
    "{{ {}.fromkeys(range(9)) }}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ nosuch.attribute }}",
    "{{ 'a' + 1 }}",
    "{{ 1 // 0 }}",
]


@pytest.mark.parametrize("source", FORBIDDEN)
def test_nothing_outside_is_reached(source: str) -> None:
    with suppress(ConfigError, InvalidRequest):
        text = ChatTemplate(source, {}).render(MESSAGES)
        assert text == "", "undefined prints nothing; anything else is a leak"


def test_budget_grows_with_the_conversation() -> None:
    source = (
        "{% for m in messages %}{% for c in m.content.split(' ') %}{{ c | upper }} {% endfor %}"
    )
    template = ChatTemplate(source + "{% endfor %}", {})
    messages = [{"role": "user", "content": "word " * 200_000}] * 4
    assert len(template.render(messages)) == 4 * (1_000_000 + 1)
