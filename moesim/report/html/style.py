"""How pages look: one column, readable on a phone, light and dark."""

STYLE = """
:root{--paper:#fbfaf7;--ink:#23262b;--faint:#6b6f76;--line:#dcd8cf;--accent:#2f6690}
@media(prefers-color-scheme:dark){:root{--paper:#1b1d21;--ink:#e6e3dc;--faint:#a3a6ad;--line:#3a3d44;--accent:#7fa8c9}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main,.moesim{max-width:960px;margin:0 auto;padding:1rem}
h1{font-size:1.25rem;line-height:1.35}
h2{font-size:1.05rem;margin:1.6rem 0 .6rem;border-top:1px solid var(--line);padding-top:.8rem}
.answer{font-size:1.05rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem .9rem;font-size:.85rem}
a{color:var(--accent)}a:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
svg{width:100%;min-width:620px;height:auto;display:block;color:var(--ink)}
svg text{font-family:system-ui,sans-serif}svg text:not([fill]){fill:currentColor}
table{border-collapse:collapse;font-size:.85rem}
th,td{padding:.2rem .7rem .2rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}.wide{overflow-x:auto}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--faint)}
pre{overflow-x:auto;background:rgba(127,127,127,.1);padding:.7rem;border-radius:4px;font-size:.8rem}
footer{color:var(--faint);font-size:.8rem;margin:2rem 0}
""".strip()
