"""The page around the answer: the form, and where else the same answer can be had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from urllib.parse import urlencode

from moesim.models.catalogue import catalogue
from moesim.report.html.style import STYLE
from moesim.web.asked import FORMATS, LOAD, Asked, hardware_names

_LABELS = {"users": "users at once", "isl": "prompt tokens", "osl": "output tokens"}
_SIZES = (1, 2, 3, 4, 5, 6, 8, 16, 32, 64)


def page(asked: Asked, answer: str) -> str:
    """The whole page with an answer in it; works without a script, too."""
    values = asked.values
    both = bool(values["b"])
    sliders = "".join(_slider(name, values[name]) for name in LOAD)
    columns = _column("a", values) + (_column("b", values) if both else "")
    second = f'<label class="switch"><input type="checkbox" name="b" value="1"{" checked" * both}> compare two</label>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>moesim: what if</title>'
        '<link rel="stylesheet" href="/page.css"><script src="/page.js" defer></script></head><body><main>'
        "<h1>How fast, and does it fit?</h1>"
        f'<form id="asked" method="get" action="/">{sliders}{second}<div class="columns">{columns}</div>'
        f"<noscript><button>answer</button></noscript></form>{_links(asked)}"
        f'<div id="answer" aria-live="polite">{answer}</div></main>'
        f"{_choices('models', catalogue())}{_choices('gpus', hardware_names())}</body></html>"
    )


def css() -> str:
    return STYLE + _CSS


def _links(asked: Asked) -> str:
    query = urlencode(asked.values)
    names = [("scenario.yaml", "scenario"), ("report.html", "report")]
    columns = [c.upper() for c in asked.scenarios]
    links = [
        f'<a class="get" data-path="/{column.lower()}/{path}" href="/{column.lower()}/{path}?{escape(query)}">'
        f"{name} {column if len(columns) > 1 else ''}</a>"
        for column in columns
        for path, name in names
    ]
    return f'<p id="links">{" ".join(links)} <span>The address of this page is the question: share it.</span></p>'


def _slider(name: str, value: str) -> str:
    low, high, _ = LOAD[name]
    shown = escape(value, quote=True)
    # Powers feel even on a slider: its place is the logarithm, beside it stands the number itself.
    return (
        f'<label class="slider"><span>{_LABELS[name]}</span>'
        f'<input type="range" min="0" max="1000" step="5" data-for="{name}" data-low="{low}" data-high="{high}" '
        f'aria-label="{_LABELS[name]}, slider">'
        f'<input type="number" name="{name}" min="{low}" max="{high}" value="{shown}"></label>'
    )


def _column(column: str, values: Mapping[str, str]) -> str:
    def value(field: str, start: str = "") -> str:
        return escape(values.get(f"{column}.{field}", "") or start, quote=True)

    sizes = "".join(
        f'<label>{n.upper()}<select name="{column}.{n}">{_options(map(str, _SIZES), value(n, "1"))}</select></label>'
        for n in ("tp", "pp", "dp")
    )
    checked = " checked" if value("ep") in {"1", "on", "true"} else ""
    formats = _options(FORMATS, value("format", "published"))
    return (
        f'<fieldset><legend>{column.upper()}</legend>'
        f'<label>model<input name="{column}.model" list="models" value="{value("model")}"></label>'
        f'<label>GPU<input name="{column}.gpu" list="gpus" value="{value("gpu")}"></label>'
        f'<label>weights<select name="{column}.format">{formats}</select></label>{sizes}'
        f'<label class="switch"><input type="checkbox" name="{column}.ep" value="1"{checked}> experts on ranks</label>'
        "</fieldset>"
    )  # fmt: skip


def _options(names: Iterable[str], chosen: str) -> str:
    listed = list(names)
    listed += [chosen] if chosen not in listed else []
    return "".join(f"<option{' selected' if n == chosen else ''}>{n}</option>" for n in listed)


def _choices(name: str, options: Iterable[str]) -> str:
    return f'<datalist id="{name}">{"".join(f"<option>{escape(o)}</option>" for o in options)}</datalist>'


_CSS = """
form{display:grid;gap:.6rem}
.slider{display:grid;grid-template-columns:8rem 1fr 6rem;gap:.6rem;align-items:center}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:1rem}
fieldset{display:flex;flex-wrap:wrap;gap:.5rem;border:1px solid var(--line);border-radius:4px}
fieldset label{display:grid;font-size:.8rem;color:var(--faint)}label.switch{display:flex;gap:.3rem;align-items:center}
input,select{font:inherit;color:inherit;background:transparent;border:1px solid var(--line);border-radius:4px}
input,select{padding:.2rem .4rem}
option{color:#222;background:#fff}
input[list]{width:15rem;max-width:100%}input[type=range]{padding:0}
input:focus-visible,select:focus-visible,a:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
.columns svg{min-width:0}
.how{color:var(--faint);font-size:.85rem;margin:.6rem 0 0}.problems{color:#b8494e}
.compared{border-left:3px solid var(--accent);padding-left:.6rem}
#links{font-size:.85rem;color:var(--faint)}h3{font-size:.95rem;margin:1rem 0 .4rem}.busy{opacity:.6}
main{max-width:1180px}
@media(max-width:480px){.slider{grid-template-columns:1fr 5.5rem}.slider span{grid-column:1/-1}}
"""
