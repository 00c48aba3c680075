"""A page of cards as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from ...files.regular import show_name
from ...viz.canvas import signed
from .cards import Card, ClassRow, Colours, Picture

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: .75rem; background: #f4f4f2; color: #1b1b1b;
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: .25rem 0; }
h2 { font-size: 1.05rem; margin: 0; }
p { margin: .35rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .75rem; margin: .5rem 0; }
dt { color: #555; }
dd { margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem .9rem; list-style: none; margin: .75rem 0; padding: 0; }
.swatch { display: inline-block; width: .95em; height: .95em; margin-right: .4em; vertical-align: -.1em;
  border: 1px solid #777; }
.unknown { background: repeating-linear-gradient(135deg, #fff 0 3px, #999 3px 5px); }
article { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .75rem; margin: 0 0 1rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem;
  margin: .5rem 0; }
figure { margin: 0; max-width: 360px; }
figcaption { font-size: .85rem; color: #444; }
img { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: right; padding: .1rem 0 .1rem 1rem; vertical-align: top;
  font-variant-numeric: tabular-nums; }
td span { white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; font-weight: normal; }
thead th { color: #555; font-weight: normal; border-bottom: 1px solid #ddd; }
.recovered { color: #00639c; font-weight: 600; }
.lost, .missing { color: #a63d00; font-weight: 600; }
@media (max-width: 30rem) { table { font-size: .85rem; } th, td { padding-left: .6rem; } }
footer { color: #555; font-size: .9rem; }
"""


class Page(NamedTuple):
    """What stands around the cards."""

    title: str
    about: str
    """What is shown, a sentence."""
    facts: Mapping[str, str]
    """Paths and what else belongs to the page, by what they are."""
    remarks: Sequence[str]
    """Lines below the cards."""
    names: Sequence[str]
    """Name of each label."""


def render(page: Page, cards: Sequence[Card], colours: Colours) -> str:
    """The whole page."""
    title = _text(page.title)
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in page.facts.items())
    remarks = "".join(f"<p>{_text(remark)}</p>" for remark in page.remarks)
    body = "\n".join(_article(card, page.names, colours) for card in cards)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{title}</h1>\n<p>{_text(page.about)}</p>\n<dl>{facts}</dl>\n</header>\n"
        f"{_legend(cards, page.names, colours)}\n<main>\n{body}\n</main>\n"
        f"<footer>{remarks}</footer>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Text of a page: names can hold anything, lone surrogates among it, which UTF-8 has not."""
    return escape(show_name(text))


def _legend(cards: Iterable[Card], names: Sequence[str], colours: Colours) -> str:
    shown = sorted({row.label for card in cards for row in card.rows})
    entries = [f"<li>{_swatch(label, colours)}{_text(names[label])}</li>" for label in shown]
    if any(card.unknown for card in cards):
        entries.append('<li><span class="swatch unknown"></span>no class</li>')
    return f'<ul class="legend" aria-label="Colours of the classes">{"".join(entries)}</ul>'


def _swatch(label: int, colours: Colours) -> str:
    return f'<span class="swatch" style="background:{colours.css(label)}"></span>'


def _article(card: Card, names: Sequence[str], colours: Colours) -> str:
    pictures = "".join(map(_figure, card.pictures))
    return (
        f"<article>\n<h2>{_text(card.key)}</h2>\n<p>{_headline(card, names)}</p>\n"
        f'<div class="pictures">{pictures}</div>\n{_table(card, names, colours)}\n</article>'
    )


def _figure(picture: Picture) -> str:
    width, height = picture.size
    return (
        f'<figure><img src="{picture.source}" alt="{_text(picture.alt)}" width="{width}" height="{height}">'
        f"<figcaption>{_text(picture.title)}</figcaption></figure>"
    )


def _headline(card: Card, names: Sequence[str]) -> str:
    parts = []
    if math.isfinite(card.miou):
        parts.append(f"mIoU {_change(card.base_miou, card.miou)} %")
    if math.isfinite(card.changed):
        parts.append(f"{100 * card.changed:.1f} % of the pixels changed")
    for verdict in ("recovered", "lost", "missing"):
        found = [names[row.label] for row in card.rows if row.verdict.startswith(verdict)]
        if found:
            parts.append(f'<span class="{verdict}">{verdict}: {_text(", ".join(found))}</span>')
    return " · ".join(parts)


def _table(card: Card, names: Sequence[str], colours: Colours) -> str:
    scored = any(math.isfinite(row.iou) for row in card.rows)
    heads = ("class", "pixels, %", *(("IoU, %",) if scored else ()))
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    rows = "".join(f"<tr>{_cells(row, names[row.label], colours, scored)}</tr>" for row in card.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(row: ClassRow, name: str, colours: Colours, scored: bool) -> str:
    kind = row.verdict.partition(",")[0].partition(" ")[0]
    verdict = f' <span class="{kind}">({row.verdict})</span>' if row.verdict else ""
    iou = f"<td>{_change(row.base_iou, row.iou)}</td>" if scored else ""
    return (
        f'<th scope="row">{_swatch(row.label, colours)}{_text(name)}{verdict}</th>'
        f"<td>{_change(row.base_share, row.share, difference=False)}</td>{iou}"
    )


def _change(before: float, after: float, *, difference: bool = True) -> str:
    """Two shares in percent, or the second alone where there is no first."""
    if not math.isfinite(after):
        return "-"
    if not math.isfinite(before):
        return f"{100 * after:.1f}"
    pair = f"<span>{100 * before:.1f} → {100 * after:.1f}</span>"
    return f"{pair} <span>({signed(100 * (after - before), '+.1f')})</span>" if difference else pair
