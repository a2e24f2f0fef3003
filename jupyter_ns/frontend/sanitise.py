"""What a container displays is hostile: HTML is cleaned, scripts and live MIME types are dropped."""

from __future__ import annotations

import base64
from typing import Any

SAFE = frozenset(("text/plain", "image/png", "image/jpeg", "image/gif", "image/webp", "application/json", "text/latex"))
_ALLOWED_STYLES = {
    "background", "background-color", "border", "border-bottom", "border-collapse", "border-left",
    "border-right", "border-top",
    "color", "font-family", "font-size", "font-style", "font-weight", "margin", "max-width",
    "min-width", "padding", "text-align", "text-decoration", "vertical-align", "white-space", "width",
    "height",
}  # fmt: skip


def clean_html(text: str) -> str:
    """Clean HTML by an allow-list (ammonia, through nh3): no script, no style sheet, no frame, no handler.

    Examples
    --------
    >>> clean_html('<b onclick="x()">a</b><script>x()</script>')
    '<b>a</b>'
    """
    import nh3

    attributes = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
    attributes["*"] = {"class", "style", "title", "colspan", "rowspan", "border", "align"}
    attributes.setdefault("img", set()).update({"src", "alt", "width", "height"})
    return str(
        nh3.clean(
            text,
            attributes=attributes,
            url_schemes={"http", "https", "mailto", "data"},
            filter_style_properties=_ALLOWED_STYLES,
            clean_content_tags={"script", "style"},
        )
    )


def clean_bundle(data: dict[str, Any], *, trust: bool) -> dict[str, Any]:
    """Clean a MIME bundle that a container sent.

    Parameters
    ----------
    data : dict
        MIME type to content.
    trust : bool
        Whether the user said ``--trust``: then nothing is changed.

    Returns
    -------
    dict
        What may be shown. Types that run code in the notebook's page (JavaScript, widgets, Vega…)
        are dropped; the plain text stays.
    """
    if trust:
        return data
    clean: dict[str, Any] = {}
    for mime, content in data.items():
        if mime in SAFE:
            clean[mime] = content
        elif mime in ("text/html", "text/markdown") and isinstance(content, str):
            clean[mime] = clean_html(content) if "<" in content else content
        elif mime == "image/svg+xml" and isinstance(content, str):
            # As the source of an <img>, an SVG's scripts do not run.
            encoded = base64.b64encode(content.encode()).decode()
            clean.setdefault("text/html", f'<img alt="" src="data:image/svg+xml;base64,{encoded}">')
    return clean
